package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// NewHandler answers the calls of a Client by asking d. Changes are logged with
// the user id of who made them, views are not.
func NewHandler(d Daemon, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", d.Metrics())

	h := handler{mux, log}
	mux.HandleFunc("GET /v1/"+exportCall, h.export(d))
	view(h, "status", d.Status)
	view(h, "users", d.Users)
	view(h, "invites", d.Invites)
	view(h, "sessions", d.Sessions)
	view(h, "queues", d.Queues)
	view(h, "configuration", d.Configuration)
	view(h, "peers", d.Peers)
	view(h, "routes", d.Routes)
	view(h, "reach", d.Reach)

	find(h, "user", func(ctx context.Context, r userName) (User, error) { return d.User(ctx, r.Name) })
	find(h, "trace", func(ctx context.Context, r messageID) (Trace, error) { return d.Trace(ctx, r.ID) })
	find(h, "queue", func(ctx context.Context, p QueuePage) ([]QueueItem, error) {
		if p.Limit == 0 {
			p.Limit = PageDefault
		}
		return d.Queue(ctx, p)
	})

	change(h, "user/add", func(ctx context.Context, r credentials) (User, error) {
		return d.AddUser(ctx, r.Name, r.Password)
	})
	change(h, "user/password", func(ctx context.Context, r credentials) (nothing, error) {
		return nothing{}, d.SetPassword(ctx, r.Name, r.Password)
	})
	change(h, "user/disable", func(ctx context.Context, r userName) (nothing, error) {
		return nothing{}, d.DisableUser(ctx, r.Name, true)
	})
	change(h, "user/enable", func(ctx context.Context, r userName) (nothing, error) {
		return nothing{}, d.DisableUser(ctx, r.Name, false)
	})
	change(h, "user/remove", func(ctx context.Context, r userName) (nothing, error) {
		return nothing{}, d.RemoveUser(ctx, r.Name)
	})
	change(h, "invite/add", d.Invite)
	change(h, "invite/revoke", func(ctx context.Context, r inviteID) (nothing, error) {
		return nothing{}, d.RevokeInvite(ctx, r.ID)
	})
	change(h, "device/remove", func(ctx context.Context, r userDevice) (nothing, error) {
		return nothing{}, d.RemoveDevice(ctx, r.Name, r.Device)
	})
	change(h, "session/close", func(ctx context.Context, r sessionID) (nothing, error) {
		return nothing{}, d.CloseSession(ctx, r.ID)
	})
	change(h, "queue/retry", func(ctx context.Context, r queueName) (nothing, error) {
		return nothing{}, d.RetryQueue(ctx, r.Name)
	})
	change(h, "queue/remove", func(ctx context.Context, r removal) (removed, error) {
		n, err := d.RemoveFromQueue(ctx, r.Name, r.IDs)
		return removed{n}, err
	})
	change(h, "peer/trust", func(ctx context.Context, r userName) (Peer, error) { return d.TrustPeer(ctx, r.Name) })
	change(h, "peer/distrust", func(ctx context.Context, r userName) (Peer, error) { return d.DistrustPeer(ctx, r.Name) })
	change(h, "reload", func(ctx context.Context, r reloading) (Reloaded, error) {
		return d.Reload(ctx, time.Duration(r.ConfirmSeconds)*time.Second)
	})
	change(h, "handoff", func(ctx context.Context, r handingOver) (nothing, error) {
		return nothing{}, d.Handoff(ctx, r.Reason)
	})
	change(h, "reload/confirm", func(ctx context.Context, _ nothing) (nothing, error) {
		return nothing{}, d.ConfirmReload(ctx)
	})
	return mux
}

type handler struct {
	mux *http.ServeMux
	log *slog.Logger
}

func view[Res any](h handler, name string, f func(context.Context) (Res, error)) {
	h.mux.HandleFunc("GET /v1/"+name, func(w http.ResponseWriter, r *http.Request) {
		res, err := f(r.Context())
		h.answer(w, name, res, err)
	})
}

func find[Req request, Res any](h handler, name string, f func(context.Context, Req) (Res, error)) {
	h.mux.HandleFunc("POST /v1/"+name, func(w http.ResponseWriter, r *http.Request) {
		_, res, err := ask(w, r, f)
		h.answer(w, name, res, err)
	})
}

func change[Req request, Res any](h handler, name string, f func(context.Context, Req) (Res, error)) {
	h.mux.HandleFunc("POST /v1/"+name, func(w http.ResponseWriter, r *http.Request) {
		req, res, err := ask(w, r, f)
		h.note(r.Context(), name, req.subject(), err)
		h.answer(w, name, res, err)
	})
}

// note logs what an admin did.
func (h handler) note(ctx context.Context, name, about string, err error) {
	attrs := []slog.Attr{slog.String("call", name), slog.String("about", about)}
	if uid, ok := ctx.Value(callerKey{}).(uint32); ok {
		attrs = append(attrs, slog.Uint64("uid", uint64(uid)))
	}
	if err != nil {
		attrs = append(attrs, slog.Any("error", err))
	}
	h.log.LogAttrs(ctx, slog.LevelInfo, "admin", attrs...)
}

func ask[Req request, Res any](w http.ResponseWriter, r *http.Request, f func(context.Context, Req) (Res, error)) (req Req, res Res, err error) {
	if err = decode(http.MaxBytesReader(w, r.Body, maxRequest), &req); err == nil {
		err = req.check()
	}
	if err == nil {
		res, err = f(r.Context(), req)
	}
	return req, res, err
}

func (h handler) answer(w http.ResponseWriter, name string, res any, err error) {
	status := http.StatusOK
	if err != nil {
		var f failure
		f, status = describe(err)
		if f.Error == kindInternal || f.Error == kindIO {
			h.log.Error("answering an admin", "call", name, "error", err)
		}
		res = f
	}
	body, err := json.Marshal(res)
	if err != nil {
		h.log.Error("answering an admin", "call", name, "error", err)
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(append(body, '\n')) // its error: the caller has gone, and knows that
}

// limits of a connection, so that a caller who is slow or hostile holds one
// goroutine for a while, and nothing else.
type limits struct {
	header, body, call, idle time.Duration
	grace                    time.Duration // for calls under way when Serve ends
}

var defaultLimits = limits{header: 5 * time.Second, body: 10 * time.Second, call: 25 * time.Second, idle: 30 * time.Second, grace: 2 * time.Second}

// Serve answers with h on l until ctx ends, and closes l. Calls that are under
// way then have two seconds to end. It returns when no call runs any more; nil,
// unless l failed before.
func Serve(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	return serve(ctx, l, h, log, defaultLimits)
}

func serve(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger, lim limits) error {
	// Calls outlive ctx by the grace, so theirs is another one.
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var conns sync.WaitGroup
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/v1/"+exportCall {
				ctx, cancel := context.WithTimeout(r.Context(), lim.call)
				defer cancel()
				r = r.WithContext(ctx)
			}
			h.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: lim.header,
		ReadTimeout:       lim.body,
		WriteTimeout:      lim.body + 2*lim.call, // so that a call that ran out of time can still say so
		IdleTimeout:       lim.idle,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		BaseContext:       func(net.Listener) context.Context { return base },
		ConnContext:       withCaller,
		// A new connection is counted before Serve takes the next one, and is closed
		// by its own goroutine, as the last thing that this does: so it can be joined.
		ConnState: func(_ net.Conn, s http.ConnState) {
			switch s {
			case http.StateNew:
				conns.Add(1)
			case http.StateClosed:
				conns.Done()
			}
		},
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	var err error
	select {
	case err = <-ended:
		err = fmt.Errorf("serving the control socket: %w", err)
	case <-ctx.Done():
		grace, cancel := context.WithTimeout(base, lim.grace)
		srv.Shutdown(grace) // its error: the grace is over
		cancel()
		<-ended
	}
	cancel()
	srv.Close()
	conns.Wait()
	return err
}

type callerKey struct{}

// withCaller notes who is at the other end, for the log.
func withCaller(ctx context.Context, c net.Conn) context.Context {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return ctx
	}
	var cred *unix.Ucred
	ctlErr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if errors.Join(ctlErr, err) != nil {
		return ctx
	}
	return context.WithValue(ctx, callerKey{}, cred.Uid)
}
