package control

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
)

// TestExport has an export end well, be refused, and break off.
func TestExport(t *testing.T) {
	for name, test := range map[string]struct {
		d    *desk
		want error // of the whole
	}{
		"whole":      {&desk{exported: strings.Repeat("all of it ", 1000)}, nil},
		"refused":    {&desk{err: message.Defer(message.CodeLater, time.Minute, "another export is under way")}, &message.Refusal{}},
		"broken off": {&desk{exported: strings.Repeat("half of it ", 1000), err: errors.New("the disk died")}, ErrUnreachable},
	} {
		t.Run(name, func(t *testing.T) {
			c := New(start(t, test.d, defaultLimits).path)
			var got []byte
			r, err := c.Export(t.Context())
			if err == nil {
				defer r.Close()
				got, err = io.ReadAll(r)
			}
			refusal, refused := errors.AsType[*message.Refusal](err)
			_, want := errors.AsType[*message.Refusal](test.want)
			switch {
			case want && (!refused || refusal.Code != message.CodeLater), !want && !errors.Is(err, test.want):
				t.Errorf("%v, not %v", err, test.want)
			case err == nil && string(got) != test.d.exported:
				t.Errorf("%d bytes of %d came", len(got), len(test.d.exported))
			}
		})
	}
}
