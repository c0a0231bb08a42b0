package main

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/noipchat/noipchat/daemon/client"
	"github.com/noipchat/noipchat/daemon/message"
)

func TestQuick(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	s := &stage{dir: t.TempDir(), out: t.Output(), began: time.Now()}
	defer s.kill(syscall.SIGKILL)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%v\nthe server says:\n%s", err, s.log.String())
		}
	}
	must(s.configure())
	must(s.start(ctx))
	status, err := s.admin.Status(ctx)
	must(err)
	alice, err := s.cast(ctx, "alice", status.Key)
	must(err)
	bob, err := s.cast(ctx, "bob", status.Key)
	must(err)
	alice.come(ctx)
	defer alice.leave()
	bob.come(ctx)
	defer bob.leave()
	for n := range 5 {
		m, err := alice.c.Send(ctx, client.Outgoing{To: []message.Address{bob.address()}, Body: fmt.Appendf(nil, "text %d", n)})
		must(err)
		h, err := s.admin.Handoff(ctx, "test")
		must(err)
		t.Logf("%+v", h)
		must(bob.reads(ctx, s, m))
		must(alice.learns(ctx, s, m, bob, message.Delivered))
	}
	t.Log(s.log.String())
}
