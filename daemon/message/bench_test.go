package message

import (
	"fmt"
	"testing"
)

func benchmarkEnvelope(b *testing.B, size int, f func(e *Envelope, raw []byte)) {
	e := Envelope{Kind: Text, Priority: Normal, From: "alice@server1", Device: 1 << 63, Counter: 70000, Created: 1 << 40,
		To: []Address{"bob@server1"}, Body: make([]byte, size)}
	raw, err := e.Append(nil)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		f(&e, raw)
	}
}

func BenchmarkEnvelope(b *testing.B) {
	for _, size := range []int{64, 1024, 60000} {
		b.Run(fmt.Sprintf("parse/%d", size), func(b *testing.B) {
			benchmarkEnvelope(b, size, func(e *Envelope, raw []byte) { e.Parse(raw) })
		})
		b.Run(fmt.Sprintf("append/%d", size), func(b *testing.B) {
			buf := make([]byte, 0, MaxEnvelope)
			benchmarkEnvelope(b, size, func(e *Envelope, _ []byte) { e.Append(buf) })
		})
		b.Run(fmt.Sprintf("id/%d", size), func(b *testing.B) {
			benchmarkEnvelope(b, size, func(_ *Envelope, raw []byte) { IDOf(raw) })
		})
	}
}
