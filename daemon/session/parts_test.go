package session

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/wire"
)

// TestPartsKept: what is kept for devices is bounded in size and in time, and given once.
func TestPartsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var k partsKept
		key := func(n int) deviceKey { return deviceKey{"alice@server1", message.DeviceID(n)} }
		part := func(size int) []wire.Part { return []wire.Part{make(wire.Part, size)} }
		for n := range 1000 {
			k.put(key(n), part(50_000))
			time.Sleep(time.Second)
		}
		if k.bytes > partsBytes || k.bytes < partsBytes-50_000 || len(k.all) != k.bytes/50_000 {
			t.Errorf("%d bytes of %d devices are kept", k.bytes, len(k.all))
		}
		if k.take(key(0)) != nil || len(k.take(key(999))) != 1 || k.take(key(999)) != nil {
			t.Error("not the latest are kept, or more than once")
		}
		k.put(key(998), part(10))
		k.put(key(998), nil)
		if k.take(key(998)) != nil {
			t.Error("what is over is kept")
		}
		time.Sleep(partsTime + time.Second)
		if k.take(key(997)) != nil || len(k.all) != 0 || k.bytes != 0 {
			t.Errorf("after a day %d bytes of %d devices are kept", k.bytes, len(k.all))
		}
	})
}
