package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/noipchat/noipchat/cmd/cli"
	"github.com/noipchat/noipchat/daemon"
)

// signals is what the server is told. Each kind has a channel of its own: many of one
// are as good as one, and keep no other from being heard.
type signals struct {
	reload, handoff, end chan os.Signal
	heard                chan chan bool // asks stop whether it has heard anything
}

func listen() *signals {
	s := &signals{
		reload: make(chan os.Signal, 1), handoff: make(chan os.Signal, 1), end: make(chan os.Signal, 2),
		heard: make(chan chan bool),
	}
	// While deafen takes the handlers away, the runtime passes a signal on to whoever had it
	// before it was listened to; by itself that is the end of the process.
	signal.Ignore(ownSignals...)
	s.hear()
	return s
}

// ownSignals are those that are no end.
var ownSignals = []os.Signal{syscall.SIGHUP, syscall.SIGUSR2}

func (s *signals) hear() {
	signal.Notify(s.reload, syscall.SIGHUP)
	signal.Notify(s.handoff, syscall.SIGUSR2)
	signal.Notify(s.end, syscall.SIGTERM, syscall.SIGINT)
}

// deafen is for the last moment before another image takes over, and tells whether
// nobody has asked for an end. Those that ask for what is being done anyway are ignored,
// which goes over to the next image, until that listens: by itself the kernel would let
// them end the process. One that asks for an end is obeyed at once from here on: all is
// on disk.
func (s *signals) deafen() bool {
	signal.Ignore(ownSignals...)
	signal.Stop(s.end)
	answer := make(chan bool)
	s.heard <- answer
	return !<-answer && len(s.end) == 0
}

// obey reloads and hands over.
func (s *signals) obey(ctx context.Context, d *daemon.Daemon) {
	for {
		select {
		case <-s.reload:
			d.Reload(ctx, 0) // it tells its error to everybody
		case <-s.handoff:
			d.Handoff(ctx, "SIGUSR2") // as this does
		}
	}
}

// stop ends the server in order at the first signal, and at once at the second.
func (s *signals) stop(log *slog.Logger, cancel context.CancelFunc) {
	stopping := false
	for {
		select {
		case answer := <-s.heard:
			answer <- stopping
		case sig := <-s.end:
			if stopping {
				log.Warn("stopping at once", "signal", sig.String())
				os.Exit(cli.ExitDone)
			}
			log.Info("stopping", "signal", sig.String())
			stopping = true
			cancel()
		}
	}
}
