// Package systemd is everything between this process and its service manager: the
// sockets that it opened or kept for us, readiness, the status line, the watchdog,
// and the journal's priorities. Without a service manager every call does nothing.
//
// It starts no goroutine and keeps no file.
package systemd

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"

	"github.com/coreos/go-systemd/v22/daemon"
)

// Notify tells the service manager lines like "READY=1", and whether there is one.
func Notify(lines ...string) bool {
	sent, err := daemon.SdNotify(false, strings.Join(lines, "\n"))
	return sent && err == nil
}

// Managed tells whether there is a service manager.
func Managed() bool { return os.Getenv("NOTIFY_SOCKET") != "" }

// ToJournal tells whether standard error goes to the journal.
func ToJournal() bool { return os.Getenv("JOURNAL_STREAM") != "" }

// Handler writes logs as lines of key=value, with the priority in front that the
// journal takes away again: see sd-daemon(3).
type Handler struct {
	mu   *sync.Mutex
	w    io.Writer
	buf  *bytes.Buffer
	text slog.Handler
}

// NewHandler makes a Handler that writes to w what has at least the level.
func NewHandler(w io.Writer, level slog.Leveler) *Handler {
	buf := new(bytes.Buffer)
	text := slog.NewTextHandler(buf, &slog.HandlerOptions{
		Level: level,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
				return slog.Attr{} // the journal has both
			}
			return a
		},
	})
	return &Handler{mu: new(sync.Mutex), w: w, buf: buf, text: text}
}

// Enabled implements slog.Handler.
func (h *Handler) Enabled(ctx context.Context, l slog.Level) bool { return h.text.Enabled(ctx, l) }

// Handle implements slog.Handler.
func (h *Handler) Handle(ctx context.Context, r slog.Record) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.buf.Reset()
	h.buf.WriteString(priority(r.Level))
	if err := h.text.Handle(ctx, r); err != nil {
		return err
	}
	_, err := h.w.Write(h.buf.Bytes())
	return err
}

// WithAttrs implements slog.Handler.
func (h *Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &Handler{h.mu, h.w, h.buf, h.text.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (h *Handler) WithGroup(name string) slog.Handler {
	return &Handler{h.mu, h.w, h.buf, h.text.WithGroup(name)}
}

func priority(l slog.Level) string {
	switch {
	case l >= slog.LevelError:
		return "<3>"
	case l >= slog.LevelWarn:
		return "<4>"
	case l >= slog.LevelInfo:
		return "<6>"
	}
	return "<7>"
}
