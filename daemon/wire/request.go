package wire

import "github.com/noipchat/noipchat/daemon/message"

// Op is what a request asks for.
type Op uint8

// The operations, with their arguments and results.
const (
	OpPassword     Op = 1 // old, new → nothing
	OpDevices      Op = 2 // nothing → DeviceFields for each device of the user's
	OpRemoveDevice Op = 3 // password, device → nothing
	OpKeys         Op = 4 // a user's address → the public key of each of his devices
	OpReach        Op = 5 // between servers: an address of who asks, with a port → the time in milliseconds since 1970; why he can't be reached there, "": he can
)

// DeviceFields is how many results OpDevices has for a device: its id, public key and
// label; when it was made and last seen, in seconds since 1970, 0 for never; "1" if it
// has a session; and why it is suspended, "" if it isn't.
const DeviceFields = 7

// Bounds of the arguments and results, each of which has at most maxSecret bytes.
const (
	maxArgs    = 8
	maxResults = 256
)

// Request asks the server for something that is no message. The answer has its number.
type Request struct {
	Number uint64
	Op     Op
	Args   []string // at most 8, of at most 1,024 bytes each
}

// AppendRequest appends a request's frame: an array of 3, the last one the arguments.
func AppendRequest(b []byte, q Request) []byte {
	b, at := begin(b, RequestFrame)
	b = message.AppendArray(b, 3)
	b = message.AppendUint(b, q.Number)
	b = message.AppendUint(b, uint64(q.Op))
	return finish(appendStrings(b, q.Args), at)
}

// ParseRequest reads a request. The strings share its bytes.
func ParseRequest(body []byte) (q Request, err error) {
	r := message.NewReader(body)
	r.Tuple(3)
	q.Number = r.Uint(1<<63 - 1)
	q.Op = Op(r.Uint(127))
	q.Args = readStrings(&r, maxArgs)
	if err := r.End(); err != nil {
		return q, broken("a request: %v", err)
	}
	return q, nil
}

// Reply is a server's answer to a request: results, or no.
type Reply struct {
	Number  uint64
	Results []string // at most 256, of at most 1,024 bytes each
	No      *message.Refusal
}

// AppendReply appends a reply's frame: an array of 2, or of 5 with a refusal.
func AppendReply(b []byte, a Reply) []byte {
	b, at := begin(b, AnswerFrame)
	if a.No != nil {
		b = message.AppendUint(message.AppendArray(b, 5), a.Number)
		return finish(appendRefusal(b, a.No), at)
	}
	b = message.AppendUint(message.AppendArray(b, 2), a.Number)
	return finish(appendStrings(b, a.Results), at)
}

// ParseReply reads a reply. The strings share its bytes.
func ParseReply(body []byte) (a Reply, err error) {
	r := message.NewReader(body)
	n := r.Array(5)
	a.Number = r.Uint(1<<63 - 1)
	switch n {
	case 2:
		a.Results = readStrings(&r, maxResults)
	case 5:
		a.No = readRefusal(&r)
	default:
		r.Fail("%d fields", n)
	}
	if err := r.End(); err != nil {
		return a, broken("a reply: %v", err)
	}
	return a, nil
}

func appendStrings(b []byte, list []string) []byte {
	b = message.AppendArray(b, len(list))
	for _, s := range list {
		b = message.AppendString(b, s)
	}
	return b
}

func readStrings(r *message.Reader, most int) []string {
	list := make([]string, r.Array(most))
	for i := range list {
		list[i] = r.String(maxSecret)
	}
	return list
}
