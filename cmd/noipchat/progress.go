package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/noipchat/noipchat/cmd/cli"
)

// progress shows how far something long is: a bar on a terminal, or with --json a line
// now and then, or nothing.
type progress struct {
	json io.Writer // nil: no JSON
	bar  io.Writer // nil: no terminal

	event, name string // what is going on, with what
	id          string
	began, last time.Time
	first       int64 // bytes that were there when it began
	drawn       bool
}

const (
	barEvery  = 100 * time.Millisecond
	jsonEvery = time.Second
)

func (a *app) progress(event, id, name string) *progress {
	p := &progress{event: event, id: id, name: name}
	switch {
	case a.json:
		p.json = os.Stdout
	case term.IsTerminal(int(os.Stderr.Fd())) && os.Getenv("TERM") != "dumb":
		p.bar = os.Stderr
	}
	return p
}

// step is one JSON line.
type step struct {
	Event       string  `json:"event"`
	ID          string  `json:"id,omitempty"`
	Name        string  `json:"name"`
	Bytes       int64   `json:"bytes"`
	Size        int64   `json:"size"`
	Rate        float64 `json:"bytes_per_second"`
	LeftSeconds float64 `json:"left_seconds,omitempty"`
}

// show tells that bytes of size are done. It is to be called often.
func (p *progress) show(bytes, size int64) {
	now := time.Now()
	if p.began.IsZero() {
		p.began, p.first = now, bytes
	}
	every := barEvery
	if p.json != nil {
		every = jsonEvery
	}
	if now.Sub(p.last) < every && bytes < size {
		return
	}
	p.last = now
	s := step{Event: p.event, ID: p.id, Name: p.name, Bytes: bytes, Size: size}
	if took := now.Sub(p.began).Seconds(); took > 0.2 {
		if s.Rate = float64(bytes-p.first) / took; s.Rate > 0 {
			s.LeftSeconds = float64(size-bytes) / s.Rate
		}
	}
	switch {
	case p.json != nil:
		cli.JSON(p.json, s) // whoever reads it may have gone: the result will tell
	case p.bar != nil:
		p.drawn = true
		fmt.Fprint(p.bar, "\r\x1b[K", s.bar())
	}
}

const barWidth = 24

func (s *step) bar() string {
	part := 1.0
	if s.Size > 0 {
		part = min(float64(s.Bytes)/float64(s.Size), 1)
	}
	done := int(part * barWidth)
	line := fmt.Sprintf("%s %s [%s%s] %3.0f %%, %s", s.Event, cli.Sanitise(clipName(s.Name)), strings.Repeat("#", done), strings.Repeat(".", barWidth-done), 100*part, cli.Size(s.Size))
	if s.Rate > 0 {
		line += fmt.Sprintf(", %s/s, %s left", cli.Size(int64(s.Rate)), cli.Age(time.Duration(s.LeftSeconds*float64(time.Second))))
	}
	return line
}

func clipName(name string) string {
	if r := []rune(name); len(r) > 30 {
		return string(r[:29]) + "…"
	}
	return name
}

// end makes room for what comes next.
func (p *progress) end() {
	if p != nil && p.drawn {
		fmt.Fprint(p.bar, "\r\x1b[K")
		p.drawn = false
	}
}
