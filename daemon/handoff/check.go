package handoff

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// ready is what the program says that runs beside us when it has found nothing wrong
// with what is on disk, and knows how to be handed something.
const ready = "ready for a handoff\n"

// Check is the new program, run once with --check, beside the one that it is to
// replace: first it looks at configuration and disk, however long that takes; then it
// is shown the very state that it will get.
type Check struct {
	cmd    *exec.Cmd
	show   io.Closer
	stdout *bufio.Reader
	stderr bytes.Buffer
}

// maxComplaint bounds what is kept of what a checking program says, in bytes.
const maxComplaint = 4 << 10

// Check runs the program, and returns when it is ready for the state, or says why it
// isn't. Show or End must follow.
func (p *Parcel) Check(ctx context.Context, program string, args []string) (*Check, error) {
	c := &Check{cmd: exec.CommandContext(ctx, program, append(args, "--check")...)}
	c.cmd.Env = append(os.Environ(), environment+"=3", "NOTIFY_SOCKET=")
	c.cmd.ExtraFiles = []*os.File{p.state}
	c.cmd.Stderr = &limited{&c.stderr}
	c.cmd.WaitDelay = time.Second
	stdin, err := c.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	c.show = stdin
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("running the new program with --check: %w", err)
	}
	c.stdout = bufio.NewReader(io.LimitReader(stdout, maxComplaint))
	if line, _ := c.stdout.ReadString('\n'); line != ready {
		err := c.end()
		if err == nil {
			err = errors.New("it knows nothing of handoffs")
		}
		return nil, fmt.Errorf("the new program with --check: %w", err)
	}
	return c, nil
}

// Show has it read the state, which was written now, and returns what it says of it.
func (c *Check) Show() error {
	if err := c.end(); err != nil {
		return fmt.Errorf("the new program reads the state: %w", err)
	}
	return nil
}

// End ends it, if Show was not called.
func (c *Check) End() {
	if c.cmd.ProcessState == nil {
		c.cmd.Process.Kill()
		c.end()
	}
}

// end lets it go on to its end.
func (c *Check) end() error {
	c.show.Close()
	io.Copy(io.Discard, c.stdout)
	err := c.cmd.Wait()
	if text := strings.TrimSpace(c.stderr.String()); err != nil && text != "" {
		return fmt.Errorf("%w: %s", err, text)
	}
	return err
}

// Answer is the other end of Check: it is called by a program that runs with --check
// and has found nothing wrong. If it was not started for a handoff, it does nothing.
func Answer(stdin io.Reader, stdout io.Writer, state any) (asked bool, err error) {
	f, err := take()
	if f == nil || err != nil {
		return false, err
	}
	defer f.Close()
	if _, err := io.WriteString(stdout, ready); err != nil {
		return true, err
	}
	io.Copy(io.Discard, stdin) // its end: the state is there
	return true, read(f, state)
}

// limited drops what is too much.
type limited struct{ *bytes.Buffer }

func (l *limited) Write(b []byte) (int, error) {
	l.Buffer.Write(b[:min(len(b), maxComplaint-l.Len())])
	return len(b), nil
}
