package cli

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/term"
)

// Progress is a line on a terminal that says how far something has come. Where
// there is no terminal it is silent.
type Progress struct {
	out   *os.File // nil: no terminal
	next  time.Time
	shown bool
}

// NewProgress makes the line, which appears when something takes longer than a moment.
func NewProgress() *Progress {
	p := &Progress{next: time.Now().Add(time.Second)}
	if term.IsTerminal(int(os.Stderr.Fd())) {
		p.out = os.Stderr
	}
	return p
}

// Show replaces the line, at most ten times a second.
func (p *Progress) Show(format string, args ...any) {
	if now := time.Now(); p.out != nil && now.After(p.next) {
		p.next, p.shown = now.Add(100*time.Millisecond), true
		fmt.Fprintf(p.out, "\r%s\x1b[K", Sanitise(fmt.Sprintf(format, args...)))
	}
}

// End takes the line away.
func (p *Progress) End() {
	if p.shown {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
}
