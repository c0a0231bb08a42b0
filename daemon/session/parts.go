package session

import (
	"sync"
	"time"

	"github.com/noipchat/noipchat/daemon/wire"
)

// Bounds of what is kept of envelopes that devices have sent in part, over slow lines.
const (
	partsTime  = 24 * time.Hour
	partsBytes = 8 << 20 // of all devices
)

// partsKept has them until their devices come again: in memory only, because nothing
// was promised. What is too much drives out what is oldest.
type partsKept struct {
	mu    sync.Mutex // guards what follows
	all   map[deviceKey]partsOf
	bytes int
}

type partsOf struct {
	parts []wire.Part
	bytes int
	at    time.Time
}

// put keeps what a connection has left.
func (k *partsKept) put(key deviceKey, parts []wire.Part) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.dropLocked(key)
	p := partsOf{parts: parts, at: time.Now()}
	for _, b := range parts {
		p.bytes += len(b)
	}
	if p.bytes == 0 {
		return
	}
	if k.all == nil {
		k.all = map[deviceKey]partsOf{}
	}
	k.all[key] = p
	k.bytes += p.bytes
	for k.bytes > partsBytes {
		oldest := key
		for other, p := range k.all {
			if p.at.Before(k.all[oldest].at) {
				oldest = other
			}
		}
		k.dropLocked(oldest)
	}
}

// take gives them to a new connection.
func (k *partsKept) take(key deviceKey) []wire.Part {
	k.mu.Lock()
	defer k.mu.Unlock()
	for other, p := range k.all {
		if time.Since(p.at) > partsTime {
			k.dropLocked(other)
		}
	}
	parts := k.all[key].parts
	k.dropLocked(key)
	return parts
}

func (k *partsKept) dropLocked(key deviceKey) {
	k.bytes -= k.all[key].bytes
	delete(k.all, key)
}
