package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/noipchat/noipchat/daemon/control"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"noipctl": main,
		// Root may open any socket, so it becomes somebody else before it tries.
		"noipctl-nobody": func() {
			if os.Geteuid() == 0 {
				if err := syscall.Setuid(65534); err != nil {
					panic(err)
				}
			}
			os.Args[0] = "noipctl"
			main()
		},
		"noipctl-bound": bound,
		"hold":          hold,
	})
}

// hold NETWORK ADDRESS listens on TCP, says where, and goes when its input ends.
func hold() {
	l, err := net.Listen(os.Args[1], os.Args[2])
	if err != nil {
		panic(err)
	}
	fmt.Println(l.Addr())
	io.Copy(io.Discard, os.Stdin)
}

// bound is noipctl for which the modes of files hold, also if it is root's: without
// the capabilities that go around them.
func bound() {
	if os.Geteuid() == 0 {
		runtime.LockOSThread() // what is dropped is the thread's, and what it executes inherits that
		for _, c := range []uintptr{unix.CAP_DAC_OVERRIDE, unix.CAP_DAC_READ_SEARCH} {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
				panic(err)
			}
		}
	}
	path, err := exec.LookPath("noipctl")
	if err == nil {
		err = syscall.Exec(path, append([]string{"noipctl"}, os.Args[1:]...), os.Environ())
	}
	panic(err)
}

// TestScripts runs testdata/script/*.txtar with a real control server each, at
// $NOIPCHAT_SOCKET; beside it are sockets that misbehave.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("NOIPCHAT_SOCKET", filepath.Join(env.WorkDir, "control.sock"))
			env.Setenv("TZ", "UTC")
			env.Setenv("GORACE", "atexit_sleep_ms=0") // or each noipctl takes a second longer under -race
			return errors.Join(serve(env), hang(env), babble(env))
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
	})
}

// exits CODE COMMAND… runs a command that must end with that exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	have := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		have = exit.ExitCode()
	}
	if have != want {
		ts.Fatalf("exit code %d, want %d", have, want)
	}
}

// serve starts a control server for a script, and its end with the script.
func serve(env *testscript.Env) error {
	l, err := control.Listen(filepath.Join(env.WorkDir, "control.sock"), control.Mode)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	log := slog.New(slog.DiscardHandler)
	ended := make(chan error, 1)
	go func() {
		ended <- control.Serve(ctx, l, control.NewHandler(newOffice(filepath.Join(env.WorkDir, "etc", "noipchat.toml")), log), log)
	}()
	env.Defer(func() {
		cancel()
		if err := <-ended; err != nil {
			panic(fmt.Sprintf("serving the control socket: %v", err))
		}
	})
	return nil
}

// hang makes hung.sock, on which nobody says anything, and locked.sock, which
// nobody may open.
func hang(env *testscript.Env) error {
	for _, name := range []string{"hung.sock", "locked.sock"} {
		l, err := net.Listen("unix", filepath.Join(env.WorkDir, name))
		if err != nil {
			return err
		}
		env.Defer(func() { l.Close() })
	}
	return os.Chmod(filepath.Join(env.WorkDir, "locked.sock"), 0)
}

// babble makes mail.sock, on which somebody speaks another protocol.
func babble(env *testscript.Env) error {
	l, err := net.Listen("unix", filepath.Join(env.WorkDir, "mail.sock"))
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Read(make([]byte, 1<<10))
			io.WriteString(c, "220 mail.example.org ESMTP\r\n")
			c.Close()
		}
	}()
	env.Defer(func() {
		l.Close()
		<-ended
	})
	return nil
}
