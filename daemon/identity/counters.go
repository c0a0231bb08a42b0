package identity

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/noipchat/noipchat/daemon/durable"
	"github.com/noipchat/noipchat/daemon/message"
)

// Counters is how far each device of this server's users has counted its
// envelopes: a device whose disk is older than that would use counters for the
// second time, and what it says would be dropped as seen. So it is told at its
// login where to go on.
//
// A device's counting touches the disk only once in 65,536 envelopes: what is on
// disk is a number that it has not reached. At an orderly stop, and only then, the
// real ones are written. It is safe for concurrent use.
type Counters struct {
	path string

	mu    sync.Mutex // guards what follows
	marks map[message.DeviceID]*Counter

	writing sync.Mutex // held over the disk, before mu
}

// Counter is how far one device has counted.
type Counter struct {
	of      *Counters
	highest atomic.Uint64 // that we know of
	limit   atomic.Uint64 // on disk: it has not gone beyond
	sure    atomic.Bool   // highest is the highest; if not, some up to limit may have been used
	wanted  uint64        // guarded by mu of the Counters: the next limit
}

const counterBlock = 1 << 16

// counterFile is counters.json.
type counterFile struct {
	Schema  int                                `json:"schema"`
	Devices map[message.DeviceID]counterOnDisk `json:"devices"`
}

type counterOnDisk struct {
	Counter uint64 `json:"counter"`
	Sure    bool   `json:"sure,omitempty"` // the highest that was used; if not, one that was not reached
}

// maxCounterFile bounds what is read: some millions of devices.
const maxCounterFile = 256 << 20

// OpenCounters reads counters.json in dir. If that is damaged, it is an error, and
// the Counters know nothing.
func OpenCounters(dir string) (*Counters, error) {
	c := &Counters{path: filepath.Join(dir, "counters.json"), marks: map[message.DeviceID]*Counter{}}
	b, err := os.ReadFile(c.path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	var f counterFile
	if err == nil && len(b) > maxCounterFile {
		err = fmt.Errorf("larger than %d bytes", maxCounterFile)
	}
	if err == nil {
		err = parseJSON(b, &f)
	}
	if err == nil && f.Schema != schema {
		err = fmt.Errorf("schema %d is not known", f.Schema)
	}
	if err != nil {
		return c, useless(c.path, "so a device that was restored from a backup may use numbers twice", "move it away to begin anew", err)
	}
	for id, d := range f.Devices {
		m := c.device(id)
		m.limit.Store(min(d.Counter, message.MaxCounter))
		m.sure.Store(d.Sure)
		if d.Sure {
			m.highest.Store(m.limit.Load())
		}
	}
	return c, nil
}

// Device returns the counter of a device.
func (c *Counters) Device(id message.DeviceID) *Counter {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.device(id)
}

func (c *Counters) device(id message.DeviceID) *Counter {
	m := c.marks[id]
	if m == nil {
		m = &Counter{of: c}
		m.sure.Store(true)
		c.marks[id] = m
	}
	return m
}

// Mark returns the highest counter that the device has used. If sure is false,
// nobody knows, but it is at most that.
func (m *Counter) Mark() (counter uint64, sure bool) {
	if m.sure.Load() {
		return m.highest.Load(), true
	}
	return max(m.highest.Load(), m.limit.Load()), false
}

// Take notes a counter that the device has used, before anybody else sees it. An
// error is one of the disk.
func (m *Counter) Take(counter uint64) error {
	for {
		h := m.highest.Load()
		if counter <= h || m.highest.CompareAndSwap(h, counter) {
			break
		}
	}
	if counter <= m.limit.Load() {
		return nil
	}
	return m.of.extend(m, counter)
}

// extend writes a new limit; one write serves all who wait for one.
func (c *Counters) extend(m *Counter, counter uint64) error {
	c.mu.Lock()
	m.wanted = max(m.wanted, min(counter, message.MaxCounter-counterBlock)+counterBlock)
	c.mu.Unlock()
	c.writing.Lock()
	defer c.writing.Unlock()
	if counter <= m.limit.Load() {
		return nil
	}
	extended := map[*Counter]uint64{}
	err := c.write(func(m *Counter) counterOnDisk {
		if m.wanted > m.limit.Load() {
			extended[m] = m.wanted
			return counterOnDisk{Counter: m.wanted}
		}
		limit := m.limit.Load()
		return counterOnDisk{Counter: limit, Sure: m.sure.Load() && m.highest.Load() == limit}
	})
	if err != nil {
		return err
	}
	for m, limit := range extended {
		m.sure.Store(true) // it was above the old limit, and has left behind what nobody knew
		m.limit.Store(limit)
	}
	return nil
}

// Close writes how far each device has come. Nobody takes any more.
func (c *Counters) Close() error {
	c.writing.Lock()
	defer c.writing.Unlock()
	return c.writeMarks()
}

func (c *Counters) writeMarks() error {
	return c.write(func(m *Counter) counterOnDisk {
		counter, sure := m.Mark()
		return counterOnDisk{counter, sure}
	})
}

// importBlock is more than a device can have counted between an export and its import.
const importBlock = 1 << 32

// Outrun is for the start after an import: the server went on after what is on disk was
// written, so devices may have counted further. Nobody knows how far, but not that far.
func (c *Counters) Outrun(devices []message.DeviceID) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	for _, id := range devices {
		m := c.Device(id)
		counter, _ := m.Mark()
		m.limit.Store(min(counter, message.MaxCounter-importBlock) + importBlock)
		m.sure.Store(false)
	}
	return c.writeMarks()
}

// Mark is how far a device has counted, between two processes.
type Mark struct {
	Device  message.DeviceID
	Highest uint64
	Sure    bool
}

// Export returns what is known beyond what is on disk, for a Resume.
func (c *Counters) Export() (marks []Mark) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, m := range c.marks {
		if h := m.highest.Load(); h > 0 {
			marks = append(marks, Mark{id, h, m.sure.Load()})
		}
	}
	return marks
}

// Resume adds to what is on disk what another process has known. It is for the start.
func (c *Counters) Resume(marks []Mark) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, mark := range marks {
		m := c.device(mark.Device)
		m.highest.Store(mark.Highest)
		m.sure.Store(mark.Sure)
	}
}

// write writes the file; on disk is what each says.
func (c *Counters) write(say func(*Counter) counterOnDisk) error {
	c.mu.Lock()
	f := counterFile{Schema: schema, Devices: make(map[message.DeviceID]counterOnDisk, len(c.marks))}
	for id, m := range c.marks {
		if d := say(m); d.Counter > 0 {
			f.Devices[id] = d
		}
	}
	c.mu.Unlock()
	b, err := json.Marshal(f)
	if err == nil {
		err = durable.WriteFile(c.path, b, 0o600)
	}
	if err != nil {
		return fmt.Errorf("storing how far devices have counted: %w", err)
	}
	return nil
}

// Keep forgets all devices but those that are known. It is for the start.
func (c *Counters) Keep(known func(message.DeviceID) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.marks, func(id message.DeviceID, _ *Counter) bool { return !known(id) })
}
