package wire

import (
	"strings"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
)

// maxAfter bounds the time to wait in a refusal.
const maxAfter = 1<<32 - 1 // seconds

// appendRefusal appends four fields: code, 1 if permanent, seconds to wait
// (rounded up), reason.
func appendRefusal(b []byte, f *message.Refusal) []byte {
	b = message.AppendUint(b, uint64(f.Code))
	permanent := byte(0)
	if f.Permanent {
		permanent = 1
	}
	b = append(b, permanent)
	seconds := max(0, f.After/time.Second)
	if f.After > seconds*time.Second {
		seconds++
	}
	b = message.AppendUint(b, uint64(min(seconds, maxAfter)))
	return message.AppendString(b, message.Clean(f.Reason, message.MaxReason))
}

// readRefusal copies the reason: a refusal is kept longer than its frame.
func readRefusal(r *message.Reader) *message.Refusal {
	return &message.Refusal{
		Code:      message.Code(r.Uint(127)),
		Permanent: r.Uint(1) == 1,
		After:     time.Duration(r.Uint(maxAfter)) * time.Second,
		Reason:    strings.Clone(r.Text(message.MaxReason)),
	}
}

// Clean is message.Clean.
func Clean(s string, max int) string { return message.Clean(s, max) }
