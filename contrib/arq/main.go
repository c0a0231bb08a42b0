// Command arq carries a reliable byte stream over a raw line that loses and alters
// bytes: a serial line, a radio modem, a pseudo-terminal. It is the program at both
// ends of an exec address of NoIPChat's, when the line has no checking of its own.
// Frames have a CRC-32 and are sent again until they are acknowledged; one side speaks
// at a time, and when nobody has anything to say the line is silent.
//
// Where it is started with --run it waits for connections, for ever, and starts the
// command for each; there is one at a time, and a new one ends the one before. See
// arq.go for the frames.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const help = `arq carries a reliable byte stream over a raw line.

usage: arq [--burst N] [--wait TIME] DEVICE
       arq [--burst N] [--wait TIME] --run 'COMMAND…' DEVICE

  --run     wait for connections, and run the command for each, on its input and output;
            words between spaces, no shell
  --burst   frames of at most 120 bytes that are sent before an answer (default 4)
  --wait    for the first answer (default 8s); later as long as answers take

The speed of DEVICE is set with stty before. A client, and its server:

  noipchat server add 'exec,rate=1200,latency=2.5s,exclusive:arq /dev/ttyUSB0'
  arq --run 'noipchatd --stdio' /dev/ttyUSB0
`

func main() {
	flags := flag.NewFlagSet("arq", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	run := flags.String("run", "", "")
	burst := flags.Int("burst", 4, "")
	wait := flags.Duration("wait", 8*time.Second, "")
	err := flags.Parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		fmt.Print(help)
		return
	}
	if err == nil && (flags.NArg() != 1 || *burst < 1 || *burst > 8 || *wait <= 0) {
		err = errors.New("it takes one device, a burst of 1 to 8, and a time to wait")
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "arq: %v\nhint: arq --help\n", err)
		os.Exit(64)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	signal.Ignore(syscall.SIGPIPE)
	if err := carry(ctx, flags.Arg(0), *run, *burst, *wait); err != nil {
		fmt.Fprintf(os.Stderr, "arq: %v\n", err)
		os.Exit(74)
	}
}

func carry(ctx context.Context, device, run string, burst int, wait time.Duration) error {
	line, err := open(device)
	if err != nil {
		return err
	}
	defer line.Close()
	heard := make(chan frame)
	go listen(line, heard) // ends with the process
	if run != "" {
		return serve(ctx, line, heard, burst, wait, func(ctx context.Context) (io.ReadWriteCloser, error) { return command(ctx, run) })
	}
	l := &link{id: uint16(rand.Uint32()), began: true, first: true, line: line, heard: heard, burst: burst, wait: wait, in: os.Stdin, out: os.Stdout}
	done := make(chan error, 1)
	go func() { done <- l.run() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return nil
	}
}

// open opens a line and makes it raw, if it is a terminal.
func open(device string) (*os.File, error) {
	f, err := os.OpenFile(device, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	t, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if errors.Is(err, unix.ENOTTY) {
		return f, nil
	}
	if err == nil {
		t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON | unix.IXOFF
		t.Oflag &^= unix.OPOST
		t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
		t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8 | unix.CREAD | unix.CLOCAL
		t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
		err = unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, t)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("setting up %s: %w", device, err)
	}
	return f, nil
}

// serve takes connections until ctx is done or the line is gone.
func serve(ctx context.Context, line io.Writer, heard <-chan frame, burst int, wait time.Duration, start func(context.Context) (io.ReadWriteCloser, error)) error {
	var id uint16
	var to chan frame // the link's; nil: there is none
	var done chan error
	end := func() {}
	for {
		select {
		case <-ctx.Done():
			end()
			return nil
		case err := <-done:
			if err != nil {
				fmt.Fprintf(os.Stderr, "arq: connection %04x: %v\n", id, err)
			}
			end()
			to, done = nil, nil
		case f, ok := <-heard:
			switch {
			case !ok:
				end()
				return errors.New("the line is gone")
			case to != nil && f.id == id:
				select {
				case to <- f:
				default: // the command doesn't read; the frame comes again
				}
			case f.bits&begins != 0:
				end()
				inner, cancel := context.WithCancel(ctx)
				stream, err := start(inner)
				if err != nil {
					cancel()
					fmt.Fprintf(os.Stderr, "arq: %v\n", err)
					to, done, end = nil, nil, func() {}
					continue
				}
				id, to, done = f.id, make(chan frame, 64), make(chan error, 1)
				l := &link{id: id, line: line, heard: to, burst: burst, wait: wait, in: stream, out: stream}
				ended, mine := make(chan struct{}), to
				go func(done chan<- error) {
					defer close(ended)
					done <- l.run(f)
				}(done)
				end = func() {
					cancel()
					stream.Close()
					close(mine)
					<-ended
					end = func() {}
				}
			case f.bits&yours != 0:
				line.Write((&frame{id: f.id, bits: unknown}).append(nil))
			}
		}
	}
}

// stream is a command's input and output.
type stream struct {
	io.Reader
	io.WriteCloser
	cmd *exec.Cmd
}

func command(ctx context.Context, run string) (io.ReadWriteCloser, error) {
	argv := strings.Fields(run)
	if len(argv) == 0 {
		return nil, errors.New("--run has no command")
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &stream{out, in, cmd}, cmd.Start()
}

// Close ends the command.
func (s *stream) Close() error {
	s.WriteCloser.Close()
	s.cmd.Process.Kill()
	return s.cmd.Wait()
}
