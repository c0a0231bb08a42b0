package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// headroom is how much garbage may lie about before it is collected, at least.
// What is relayed lives for milliseconds: with the runtime's own rule a server
// with little in its memory would collect hundreds of times a second.
const headroom = 32 << 20

// relaxCollector keeps the collector's percentage such that headroom holds: with
// little alive it is high, with much it is the usual 100. It looks again after each
// collection, by way of a finalizer, and at no other time. Who sets GOGC knows better.
func relaxCollector() {
	if os.Getenv("GOGC") != "" {
		return
	}
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	now := uint64(100)
	type sentinel struct{ _ *byte }
	var adjust func(*sentinel)
	adjust = func(s *sentinel) {
		metrics.Read(live)
		// The runtime's least heap is 4 MiB × percent / 100: no more than headroom.
		percent := min(max(100*headroom/max(live[0].Value.Uint64(), 1), 100), 100*headroom/(4<<20))
		// Setting it stops the world for some microseconds: not for trifles.
		if percent*8 < now*7 || percent*8 > now*9 {
			now = percent
			debug.SetGCPercent(int(percent))
		}
		runtime.SetFinalizer(s, adjust)
	}
	adjust(new(sentinel))
}
