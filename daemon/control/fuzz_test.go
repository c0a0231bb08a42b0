package control

import (
	"bytes"
	"encoding/json"
	"net/http/httptest"
	"testing"

	"github.com/noipchat/noipchat/daemon/message"
)

// FuzzRequest sends any body to any call: there is always an answer in JSON, and
// what was taken means the same when it is written again.
func FuzzRequest(f *testing.F) {
	names := []string{"user", "trace", "queue", "user/add", "user/password", "user/disable", "user/remove",
		"invite/add", "invite/revoke", "session/close", "device/remove", "queue/remove", "reload", "user/enable",
		"peer/trust", "peer/distrust"}
	f.Fuzz(func(t *testing.T, call uint8, body []byte) {
		d := sample()
		w := httptest.NewRecorder()
		name := names[int(call)%len(names)]
		NewHandler(d, discard).ServeHTTP(w, httptest.NewRequest("POST", "/v1/"+name, bytes.NewReader(body)))
		if !json.Valid(w.Body.Bytes()) {
			t.Fatalf("%s: the answer is %q", name, w.Body)
		}
		switch w.Code {
		case 200:
			if len(d.asked) != 1 {
				t.Fatalf("%s: done, and the daemon was asked %q", name, d.asked)
			}
		case 400, 403:
			if len(d.asked) != 0 {
				t.Fatalf("%s: %d, and the daemon was asked %q", name, w.Code, d.asked)
			}
		default:
			t.Fatalf("%s: status %d: %s", name, w.Code, w.Body)
		}
		again[userName](t, body)
		again[credentials](t, body)
		again[handingOver](t, body)
		again[InviteRequest](t, body)
		again[QueuePage](t, body)
	})
}

func again[Req interface {
	comparable
	request
}](t *testing.T, body []byte) {
	var first, second Req
	if decode(bytes.NewReader(body), &first) != nil || first.check() != nil {
		return
	}
	if n, ok := any(first).(userName); ok && message.CheckName(n.Name) != nil {
		t.Fatalf("took the name %q", n.Name)
	}
	b, err := json.Marshal(first)
	if err != nil {
		t.Fatal(err)
	}
	if err := decode(bytes.NewReader(b), &second); err != nil || first != second {
		t.Fatalf("%+v became %+v, %v", first, second, err)
	}
}
