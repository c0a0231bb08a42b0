package control

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

const exportCall = "export"

// exportPatience is how long somebody who takes an export may take nothing of it.
const exportPatience = time.Minute

// export answers with a stream. If it is not whole, the connection is cut, so the caller
// knows.
func (h handler) export(d Daemon) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		out := &stream{w: w, c: http.NewResponseController(w)}
		err := out.c.SetReadDeadline(time.Time{}) // of the request, which is over
		if err == nil {
			err = d.Export(r.Context(), out)
		}
		h.note(r.Context(), exportCall, "", err)
		switch {
		case err == nil:
		case out.begun:
			panic(http.ErrAbortHandler)
		default:
			h.answer(w, exportCall, nil, err)
		}
	}
}

// stream is an answer that takes as long as it takes, as long as it goes on.
type stream struct {
	w     io.Writer
	c     *http.ResponseController
	begun bool
}

func (s *stream) Write(b []byte) (int, error) {
	s.begun = true
	if err := s.c.SetWriteDeadline(time.Now().Add(exportPatience)); err != nil {
		return 0, err
	}
	return s.w.Write(b)
}

// Export asks for the whole server, as a stream that backup.Read reads; the caller closes
// it. Timeout does not count.
func (c *Client) Export(ctx context.Context) (io.ReadCloser, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://noipchatd/v1/"+exportCall, nil)
	if err != nil {
		return nil, fmt.Errorf("making the request: %w", err)
	}
	answer, err := c.http.Do(r)
	if err != nil {
		return nil, c.explain(ctx, err)
	}
	if answer.StatusCode == http.StatusOK {
		return &exported{answer.Body, c, ctx}, nil
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxRequest))
	if err != nil {
		return nil, c.explain(ctx, err)
	}
	return nil, restore(answer.Status, body)
}

// exported tells apart the ways in which an export ends too early.
type exported struct {
	io.ReadCloser
	c   *Client
	ctx context.Context
}

func (e *exported) Read(b []byte) (int, error) {
	n, err := e.ReadCloser.Read(b)
	if err != nil && err != io.EOF {
		err = e.c.explain(e.ctx, err)
	}
	return n, err
}
