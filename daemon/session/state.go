package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/pump"
	"github.com/noipchat/noipchat/daemon/transport"
	"github.com/noipchat/noipchat/daemon/wire"
)

// State is all sessions of a Host between two images of a process. What isn't in it:
// connections that have not logged in, which are closed, and the beginnings of
// envelopes that devices on slow lines have left behind, who are away now.
type State struct {
	LastID   uint64
	Sessions []SessionState

	channels []channel // of the sessions; see Open
}

// channel is a session's connection, made again, or why that can't be.
type channel struct {
	conn *wire.Conn
	err  error
}

// SessionState is one of them.
type SessionState struct {
	ID     uint64
	User   message.Address
	Device message.DeviceID
	Agent  string
	Since  time.Time
	Stream transport.Carried
	Flow   pump.State
}

// pendingGrace is how long AwaitPending waits for those who are logging in.
const pendingGrace = 500 * time.Millisecond

// Pause has all readers end, without an end of their connections, and keeps new
// sessions from beginning. It fails at the end of ctx. Reclaim must follow in any case,
// unless the process ends. Listeners are paused already.
func (h *Host) Pause(ctx context.Context) error {
	h.mu.Lock()
	h.paused = make(chan struct{})
	h.mu.Unlock()
	all := h.snapshot()
	for _, s := range all {
		s.Pause()
	}
	for _, s := range all {
		select {
		case <-h.reading(s):
		case <-ctx.Done():
			return fmt.Errorf("session %d of %s is busy: %w", s.id, s.user, ctx.Err())
		}
	}
	return nil
}

// AwaitPending waits a moment for connections that have not logged in: they would be
// closed by the end of this image, and come again.
func (h *Host) AwaitPending(ctx context.Context) {
	h.mu.Lock()
	if len(h.pending) == 0 {
		h.mu.Unlock()
		return
	}
	empty := make(chan struct{})
	h.empty = empty
	h.mu.Unlock()
	late := time.NewTimer(pendingGrace)
	defer late.Stop()
	select {
	case <-empty:
	case <-late.C:
	case <-ctx.Done():
	}
	h.mu.Lock()
	h.empty = nil
	h.mu.Unlock()
}

// Export returns the state of all sessions, which are paused, after the spool has
// settled. keep is as in transport.Carry.
func (h *Host) Export(keep func(syscall.Conn) (int, error)) (State, error) {
	state := State{LastID: h.lastID.Load()}
	for _, s := range h.snapshot() {
		if s.Ended() != nil {
			continue
		}
		flow, err := s.Export()
		var stream transport.Carried
		if err == nil {
			stream, err = transport.Carry(s.Conn().Transport(), keep)
		}
		if s.Ended() != nil { // perhaps meanwhile
			continue
		}
		if err != nil {
			return state, fmt.Errorf("session %d of %s: %w", s.id, s.user, err)
		}
		state.Sessions = append(state.Sessions, SessionState{s.id, s.user, s.device, s.agent, s.since, stream, flow})
	}
	return state, nil
}

// Reclaim undoes Pause and Export: sessions go on.
func (h *Host) Reclaim() {
	h.mu.Lock()
	if h.paused != nil {
		close(h.paused)
		h.paused = nil
	}
	h.mu.Unlock()
	for _, s := range h.snapshot() {
		reading := h.reading(s)
		select {
		case <-reading:
			h.readAgain(s, reading)
		default: // it was busy, and the pause has failed; it will find that it is to end
			h.wg.Go(func() {
				<-reading
				h.readAgain(s, reading)
			})
		}
	}
}

// reading returns what is closed when a session's reader has ended.
func (h *Host) reading(s *session) chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return s.reading
}

// readAgain starts the reader after one that has ended, unless there is another pause.
func (h *Host) readAgain(s *session, ended chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.paused == nil && s.reading == ended {
		s.Reclaim()
		s.reading = make(chan struct{})
		h.read(s)
	}
}

// Open makes the connections of another image's State, before Resume. It needs nothing
// else, and takes long if they are many.
func (s *State) Open(log *slog.Logger) {
	s.channels = make([]channel, len(s.Sessions))
	var all sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		all.Go(func() {
			for i := w; i < len(s.Sessions); i += workers {
				s.channels[i].conn, s.channels[i].err = s.Sessions[i].open(log)
			}
		})
	}
	all.Wait()
}

func (s *SessionState) open(log *slog.Logger) (*wire.Conn, error) {
	stream, err := s.Stream.Conn(log)
	if err != nil {
		return nil, err
	}
	conn, err := wire.Resume(stream, s.Flow.Conn)
	if err != nil {
		stream.Close()
	}
	return conn, err
}

// Resume makes the sessions of another image's State, after its Open, and returns how many could not
// be made: their devices come again. Users are known to the relay. Nobody is served
// before Start.
func (h *Host) Resume(state State) (lost int) {
	h.lastID.Store(state.LastID)
	for i := range state.Sessions {
		s := &state.Sessions[i]
		if err := h.resumeOne(s, state.channels[i]); err != nil {
			h.o.Log.Warn("a session could not be handed over, and is closed", "session", s.ID, "user", string(s.User), "error", err)
			lost++
		}
	}
	return lost
}

func (h *Host) resumeOne(state *SessionState, c channel) error {
	if c.err != nil {
		return c.err
	}
	conn := c.conn
	key := deviceKey{state.User, state.Device}
	if h.sessions[key] != nil {
		conn.Close()
		return errors.New("there are two of the same device")
	}
	s := &session{
		host: h, id: state.ID, user: state.User, device: state.Device, agent: state.Agent, since: state.Since,
		count: h.counters.Device(state.Device), reading: make(chan struct{}),
	}
	if conn.Slow() {
		s.over = make(chan struct{})
	}
	s.Flow = pump.Resume(conn, s, pump.Options{Relay: h.relay, Spool: h.sp, Start: h.start}, state.Flow)
	h.sessions[key] = s
	return nil
}

// Start serves the sessions of a Resume. Those of devices that are no more are ended.
func (h *Host) Start() {
	for _, s := range h.snapshot() {
		h.read(s)
		h.endUnknown(s.user.User(), s)
	}
}
