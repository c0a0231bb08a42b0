package wire

import "time"

// Pacer bounds what is under way of bulk: so much that the line is busy, and so
// little that what is more urgent, and waits behind it in buffers that nobody can
// reorder, goes out soon. It grows while acks come fast, and shrinks when they don't,
// so it finds by itself how much a line carries in that time. It belongs to one
// connection and is guarded by whoever has it.
type Pacer struct {
	window, under int // bytes
}

const (
	pacerLeast = 104 << 10 // two parts of files: a second at 1 Mbit/s
	pacerMost  = 4 << 20
	pacerFast  = 40 * time.Millisecond // an ack within that lets it grow
	pacerSlow  = 80 * time.Millisecond // one after that lets it shrink
)

// Room is how many bytes may go now, 0 or less for none.
func (p *Pacer) Room() int { return max(p.window, pacerLeast) - p.under }

// Sent notes that n bytes are under way.
func (p *Pacer) Sent(n int) { p.under += n }

// Acked notes that n bytes which took so long are acked.
func (p *Pacer) Acked(n int, took time.Duration) {
	p.under -= n
	p.window = max(p.window, pacerLeast)
	switch {
	case took < pacerFast:
		p.window = min(p.window+n, pacerMost)
	case took > pacerSlow:
		p.window = max(p.window-n, pacerLeast)
	}
}
