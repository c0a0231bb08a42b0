package daemon

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/noipchat/noipchat/daemon/control"
	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/peer"
)

// figures is a prometheus.Collector that reads the rooms' own counters when it is
// asked, so that counting costs the path of a message one addition.
type figures struct{ d *Daemon }

// figure is one line of the exposition.
type figure struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*Daemon) float64
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("noipchat_"+name, help, labels, nil)
}

var (
	refusedDesc = desc("refused_total", "Receivers of envelopes that were refused, by reason.", "reason")
	loginDesc   = desc("login_failures_total", "Logins that were refused, by reason.", "reason")
	syncDesc    = desc("journal_sync_seconds", "Writing a batch to the journal and syncing it.")
)

// ofPeers is what is shown of each that the configuration has, or that has a link: others
// can make us remember their names.
var ofPeers = []struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*peer.State) float64
}{
	{desc("peer_up", "1 while there is a link.", "peer"), prometheus.GaugeValue, func(s *peer.State) float64 { return truth(s.Up) }},
	{desc("peer_wanted", "1 while there is to be a link: one is to stay up, or something waits for it.", "peer"), prometheus.GaugeValue, func(s *peer.State) float64 { return truth(s.Wanted) }},
	{desc("peer_links_total", "Links that came up.", "peer"), prometheus.CounterValue, func(s *peer.State) float64 { return float64(s.Links) }},
	{desc("peer_failures_total", "Attempts to dial that came to no link.", "peer"), prometheus.CounterValue, func(s *peer.State) float64 { return float64(s.Failures) }},
	{desc("peer_rtt_seconds", "How long acks take lately; 0: not known.", "peer"), prometheus.GaugeValue, func(s *peer.State) float64 { return s.RTT.Seconds() }},
	{desc("peer_received_bytes_total", "Bytes that were read.", "peer"), prometheus.CounterValue, func(s *peer.State) float64 { return float64(s.Read) }},
	{desc("peer_sent_bytes_total", "Bytes that were written.", "peer"), prometheus.CounterValue, func(s *peer.State) float64 { return float64(s.Written) }},
	{desc("peer_received_total", "Envelopes that it has brought.", "peer"), prometheus.CounterValue, func(s *peer.State) float64 { return float64(s.Received) }},
	{desc("peer_sent_total", "Envelopes that it has acked.", "peer"), prometheus.CounterValue, func(s *peer.State) float64 { return float64(s.Sent) }},
	{desc("peer_waiting_messages", "Envelopes that wait for it, for whichever server, and that it hasn't had.", "peer"), prometheus.GaugeValue, func(s *peer.State) float64 { return float64(s.Waiting) }},
	{desc("peer_waiting_oldest_seconds", "Age of the oldest of those.", "peer"), prometheus.GaugeValue, func(s *peer.State) float64 { return s.Untouched.Seconds() }},
	{desc("peer_kept_messages", "Envelopes that it has had, and that are kept until a receipt comes.", "peer"), prometheus.GaugeValue, func(s *peer.State) float64 { return float64(s.Kept) }},
}

// ofAll is what is shown of all peers together.
var ofAll = []struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*peer.Figures) float64
}{
	{desc("routes", "Servers that a way leads to now."), prometheus.GaugeValue, func(f *peer.Figures) float64 { return float64(f.Routes) }},
	{desc("unrouted_messages", "Envelopes for servers that no way leads to."), prometheus.GaugeValue, func(f *peer.Figures) float64 { return float64(f.Stuck.Waiting + f.Stuck.Kept) }},
	{desc("unrouted_oldest_seconds", "Age of the oldest of those that no other server has had."), prometheus.GaugeValue, func(f *peer.Figures) float64 { return f.Stuck.Untouched.Seconds() }},
	{desc("copies", "Copies of what no route is known for, kept for others."), prometheus.GaugeValue, func(f *peer.Figures) float64 { return float64(f.Copies) }},
	{desc("copies_bytes", "Bytes of those."), prometheus.GaugeValue, func(f *peer.Figures) float64 { return float64(f.CopyBytes) }},
	{desc("copies_quota_bytes", "How many there may be."), prometheus.GaugeValue, func(f *peer.Figures) float64 { return float64(f.CopyRoom) }},
	{desc("route_requests_limited_total", "What peers asked or told of routes and was passed over: too much, or too fast."), prometheus.CounterValue, func(f *peer.Figures) float64 { return float64(f.Limited) }},
	{desc("impostors_total", "Servers that came with another key than the known one, and ways to a server of our own name with another key."), prometheus.CounterValue, func(f *peer.Figures) float64 { return float64(f.Impostors) }},
}

func truth(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

var simple = []figure{
	{desc("sessions", "Devices that are logged in."), prometheus.GaugeValue, func(d *Daemon) float64 { n, _ := d.host.Count(); return float64(n) }},
	{desc("pending_connections", "Connections that have not logged in."), prometheus.GaugeValue, func(d *Daemon) float64 { _, n := d.host.Count(); return float64(n) }},
	{desc("connections_total", "Connections that were accepted."), prometheus.CounterValue, func(d *Daemon) float64 { return float64(d.host.Stats().Connections.Load()) }},
	{desc("handshakes_total", "Handshakes that went well."), prometheus.CounterValue, func(d *Daemon) float64 { return float64(d.host.Stats().Handshakes.Load()) }},
	{desc("handshake_failures_total", "Connections that ended before a handshake was done."), prometheus.CounterValue, func(d *Daemon) float64 { return float64(d.host.Stats().HandshakeFail.Load()) }},
	{desc("evicted_connections_total", "Connections that were closed because others came and they had not logged in."), prometheus.CounterValue, func(d *Daemon) float64 { return float64(d.host.Stats().Evicted.Load()) }},
	{desc("logins_total", "Logins."), prometheus.CounterValue, func(d *Daemon) float64 { return float64(d.host.Stats().Logins.Load()) }},
	{desc("protocol_errors_total", "Sessions that were ended because the device broke the protocol."), prometheus.CounterValue, func(d *Daemon) float64 { return float64(d.host.Stats().Protocol.Load()) }},
	{desc("accepted_total", "Envelopes that were accepted for at least one receiver."), prometheus.CounterValue, func(d *Daemon) float64 { return float64(d.relay.Stats().Accepted.Load()) }},
	{desc("delivered_total", "Receivers of envelopes whose device has acked."), prometheus.CounterValue, func(d *Daemon) float64 { return float64(d.relay.Stats().Delivered.Load()) }},
	{desc("held_total", "Receivers of envelopes that were taken to disk."), prometheus.CounterValue, func(d *Daemon) float64 { return float64(d.relay.Stats().Held.Load()) }},
	{desc("receipts_total", "Receipts that were written here."), prometheus.CounterValue, func(d *Daemon) float64 { return float64(d.relay.Stats().Receipts.Load()) }},
	{desc("bounces_total", "Bounces that were written here."), prometheus.CounterValue, func(d *Daemon) float64 { return float64(d.relay.Stats().Bounces.Load()) }},
	{desc("expired_total", "Envelopes in queues whose lifetime ended."), prometheus.CounterValue, func(d *Daemon) float64 { return float64(d.spool.Stats().Expired.Load()) }},
	{desc("queue_messages", "Envelopes in all queues."), prometheus.GaugeValue, func(d *Daemon) float64 { n, _ := d.spool.Waiting(); return float64(n) }},
	{desc("queue_bytes", "Bytes of envelopes in all queues."), prometheus.GaugeValue, func(d *Daemon) float64 { _, n := d.spool.Waiting(); return float64(n) }},
	{desc("queue_oldest_seconds", "Age of the oldest envelope in a queue."), prometheus.GaugeValue, oldest},
	{desc("hand_bytes", "Bytes of envelopes that are in memory only."), prometheus.GaugeValue, func(d *Daemon) float64 { return float64(d.spool.HandBytes()) }},
	{desc("journal_bytes_total", "Bytes written to the journal."), prometheus.CounterValue, func(d *Daemon) float64 { return float64(d.spool.Stats().Bytes.Load()) }},
	{desc("journal_sync_errors_total", "Batches that could not be written or synced."), prometheus.CounterValue, func(d *Daemon) float64 { return float64(d.spool.Stats().SyncErrors.Load()) }},
	{desc("journal_sync_max_seconds", "The longest sync since the start."), prometheus.GaugeValue, func(d *Daemon) float64 {
		return time.Duration(d.spool.Stats().SyncMaxNanos.Load()).Seconds()
	}},
	{desc("filed_total", "Envelopes that were moved from the journal to queue files."), prometheus.CounterValue, func(d *Daemon) float64 { return float64(d.spool.Stats().Filed.Load()) }},
	{desc("filing_errors_total", "Times that moving envelopes to queue files failed."), prometheus.CounterValue, func(d *Daemon) float64 { return float64(d.spool.Stats().FileErrors.Load()) }},
	{desc("damaged_total", "Records and files of the spool that were not what was written, and were set aside."), prometheus.CounterValue, func(d *Daemon) float64 { return float64(d.spool.Stats().Damaged.Load()) }},
	{desc("handoffs_total", "Handoffs to another image of the process."), prometheus.CounterValue, func(d *Daemon) float64 { n, _, _ := d.past.counts(); return float64(n) }},
	{desc("handoff_failures_total", "Handoffs that were not made."), prometheus.CounterValue, func(d *Daemon) float64 { _, n, _ := d.past.counts(); return float64(n) }},
	{desc("handoff_pause_seconds", "How long the last handoff kept sessions waiting."), prometheus.GaugeValue, func(d *Daemon) float64 { return d.lastHandoff().PauseSeconds }},
	{desc("handoff_sessions", "Sessions that the last handoff has handed over."), prometheus.GaugeValue, func(d *Daemon) float64 { return float64(d.lastHandoff().Sessions) }},
	{desc("handoff_closed_sessions", "Sessions that the last handoff has closed."), prometheus.GaugeValue, func(d *Daemon) float64 { return float64(d.lastHandoff().Closed) }},
	{desc("disk_full", "1 while the disk takes nothing more."), prometheus.GaugeValue, func(d *Daemon) float64 { return truth(d.spool.Full()) }},
}

func (d *Daemon) lastHandoff() control.Handoff { _, _, last := d.past.counts(); return last }

func oldest(d *Daemon) float64 {
	age := time.Duration(0)
	for _, q := range d.spool.Queues() {
		age = max(age, q.Info().Oldest)
	}
	return age.Seconds()
}

// Describe implements prometheus.Collector.
func (f figures) Describe(ch chan<- *prometheus.Desc) {
	for i := range simple {
		ch <- simple[i].desc
	}
	for i := range ofPeers {
		ch <- ofPeers[i].desc
	}
	for i := range ofAll {
		ch <- ofAll[i].desc
	}
	ch <- refusedDesc
	ch <- loginDesc
	ch <- syncDesc
}

// Collect implements prometheus.Collector.
func (f figures) Collect(ch chan<- prometheus.Metric) {
	for i := range simple {
		ch <- prometheus.MustNewConstMetric(simple[i].desc, simple[i].kind, simple[i].value(f.d))
	}
	all := f.d.federation.Figures()
	for _, s := range all.Peers {
		for i := range ofPeers {
			if s.Configured || s.Up {
				ch <- prometheus.MustNewConstMetric(ofPeers[i].desc, ofPeers[i].kind, ofPeers[i].value(&s), s.Name)
			}
		}
	}
	for i := range ofAll {
		ch <- prometheus.MustNewConstMetric(ofAll[i].desc, ofAll[i].kind, ofAll[i].value(&all))
	}
	for _, c := range message.Codes() {
		if n := f.d.relay.Stats().Refused[c].Load(); n > 0 {
			ch <- prometheus.MustNewConstMetric(refusedDesc, prometheus.CounterValue, float64(n), c.String())
		}
		if n := f.d.host.Stats().LoginFail[c].Load(); n > 0 {
			ch <- prometheus.MustNewConstMetric(loginDesc, prometheus.CounterValue, float64(n), c.String())
		}
	}
	s := f.d.spool.Stats()
	ch <- prometheus.MustNewConstSummary(syncDesc, s.Syncs.Load(), time.Duration(s.SyncNanos.Load()).Seconds(), nil)
}

// openMetrics makes a registry of the daemon's own, for Prometheus and for Status.
func (d *Daemon) openMetrics() {
	r := prometheus.NewRegistry()
	r.MustRegister(figures{d}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	d.metrics = promhttp.HandlerFor(r, promhttp.HandlerOpts{})
	own := prometheus.NewRegistry()
	own.MustRegister(figures{d})
	d.gather = func() (map[string]float64, error) {
		families, err := own.Gather()
		if err != nil {
			return nil, err
		}
		all := map[string]float64{}
		for _, f := range families {
			for _, m := range f.Metric {
				name := f.GetName()
				for _, l := range m.Label {
					name += "{" + l.GetName() + "=" + l.GetValue() + "}"
				}
				switch {
				case m.Counter != nil:
					all[name] = m.Counter.GetValue()
				case m.Gauge != nil:
					all[name] = m.Gauge.GetValue()
				case m.Summary != nil:
					all[name+"_count"], all[name+"_sum"] = float64(m.Summary.GetSampleCount()), m.Summary.GetSampleSum()
				}
			}
		}
		return all, nil
	}
}
