package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/noipchat/noipchat/cmd/cli"
)

// progress shows how far a file is: a bar on a terminal, or with --json a line of JSON
// every second.
type progress struct {
	json io.Writer // nil: no JSON
	bar  *cli.Progress

	step
	began, last time.Time
	first       int64 // bytes that were there when it began
}

// step is one line of JSON.
type step struct {
	Event       string  `json:"event"` // "reading", "sending", "receiving"
	ID          string  `json:"id,omitempty"`
	Name        string  `json:"name"`
	Bytes       int64   `json:"bytes"`
	Size        int64   `json:"size"`
	Rate        float64 `json:"bytes_per_second"`
	LeftSeconds float64 `json:"left_seconds,omitempty"`
}

func (a *app) progress(event, id, name string) *progress {
	p := &progress{bar: cli.NewProgress(), step: step{Event: event, ID: id, Name: name}}
	if a.json {
		p.json = os.Stdout
	}
	return p
}

// show tells that bytes of size are done. It may be called as often as one likes.
func (p *progress) show(bytes, size int64) {
	now := time.Now()
	if p.began.IsZero() {
		p.began, p.last, p.first = now, now, bytes
	}
	p.Bytes, p.Size = bytes, size
	if took := now.Sub(p.began).Seconds(); took > 0.2 {
		if p.Rate = float64(bytes-p.first) / took; p.Rate > 0 {
			p.LeftSeconds = float64(size-bytes) / p.Rate
		}
	}
	switch {
	case p.json == nil:
		p.bar.Show("%s", &p.step) // which makes the text when it writes one
	case now.Sub(p.last) >= time.Second:
		p.last = now
		cli.JSON(p.json, p.step) // whether anybody reads it, the result will tell
	}
}

const barWidth = 24

func (s *step) String() string {
	part := 1.0
	if s.Size > 0 {
		part = min(float64(s.Bytes)/float64(s.Size), 1)
	}
	done := int(part * barWidth)
	name := s.Name
	if r := []rune(name); len(r) > 30 {
		name = string(r[:29]) + "…"
	}
	line := fmt.Sprintf("%s %s [%s%s] %3.0f %% of %s", s.Event, name, strings.Repeat("#", done), strings.Repeat(".", barWidth-done), 100*part, cli.Size(s.Size))
	if s.Rate > 0 {
		line += fmt.Sprintf(", %s/s, %s left", cli.Size(int64(s.Rate)), cli.Age(time.Duration(s.LeftSeconds*float64(time.Second))))
	}
	return line
}

func (p *progress) end() { p.bar.End() }
