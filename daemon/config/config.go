// Package config reads, checks and renders the server's TOML: one file and the
// drop-ins beside it. Load says everything that is wrong, each with its file and
// line, or returns a configuration that needs no further check.
//
// It opens no socket, resolves no name and doesn't ask whether an address or a
// folder exists on this machine: who uses a value finds that out. It starts no
// goroutine, keeps nothing open and writes nothing to disk.
//
// The way of a text: source.go checks its bytes and notes the line of every key,
// because the TOML library tells none for what it has parsed; load.go puts its
// values into a Config; check.go judges what a type and a range can't.
package config

import (
	"bytes"
	"time"

	"github.com/BurntSushi/toml"
)

// Config is all that can be set; its toml tags are all the keys there are.
//
// range bounds a value, both ends included; oneof lists what a word may be.
// change says what a new value needs: hot can be applied while running, handoff
// needs a new image of the process, cold a restart. The name is cold because every
// address and key here hangs on it; the log needs a handoff because every room holds the
// logger that it was started with.
type Config struct {
	Name    string `toml:"name" change:"cold"`                  // of this server; message.CheckName
	MaxHops int    `toml:"max_hops" range:"1..64" change:"hot"` // servers that a message may cross
	Log     string `toml:"log" change:"handoff"`                // "journal", "stderr", or a file below /var/log/noipchat

	Interfaces []Interface `toml:"interface" change:"hot"` // at least one
	Peers      []Peer      `toml:"peer" change:"hot"`

	Federation struct {
		Unknown    string `toml:"unknown" oneof:"refuse ask accept" change:"hot"` // servers that dial in and are no peer
		Unverified string `toml:"unverified" oneof:"mark refuse" change:"hot"`    // mail from a home whose key is unknown
		FloodQuota Size   `toml:"flood_quota" range:"64KiB..16TiB" change:"hot"`  // copies kept for destinations without a route; per origin a tenth
	} `toml:"federation"`

	Register struct {
		Mode string `toml:"mode" oneof:"closed invite open" change:"hot"` // who may make an account
	} `toml:"register"`

	Limits struct {
		Sessions                int      `toml:"sessions" range:"1..1000000" change:"hot"`                   // logged in at once
		Pending                 int      `toml:"pending" range:"1..1000000" change:"hot"`                    // connections that have not logged in yet
		LoginFailures           int      `toml:"login_failures" range:"1..1000000" change:"hot"`             // per account and LoginWindow
		LoginFailuresPerAddress int      `toml:"login_failures_per_address" range:"1..1000000" change:"hot"` // per LoginWindow
		LoginWindow             Duration `toml:"login_window" range:"1s..1w" change:"hot"`
		RegistrationsPerAddress int      `toml:"registrations_per_address" range:"1..1000000" change:"hot"` // per hour, where Mode is "open"
	} `toml:"limits"`

	Spool struct {
		MaxAge Duration `toml:"max_age" range:"1s..520w" change:"hot"`    // what waits longer expires
		Quota  Size     `toml:"quota" range:"64KiB..16TiB" change:"hot"`  // on disk, per device queue; at most Total
		Total  Size     `toml:"total" range:"1MiB..1024TiB" change:"hot"` // on disk, all queues
		Hand   Size     `toml:"hand" range:"64KiB..1TiB" change:"hot"`    // memory for what is in hand, all queues
	} `toml:"spool"`

	Metrics struct {
		Listen string `toml:"listen" change:"hot"` // "ip:port" for Prometheus; "" is off
	} `toml:"metrics"`

	origin map[string]place // where each key was set; nil if it was not loaded
}

// Interface is an address of this machine that we listen on. Addresses are kept
// in their canonical spelling.
type Interface struct {
	Kind string `toml:"kind" oneof:"tcp unix" change:"hot"` // "tcp" when left out

	// Bind is "ip:port" or "[ip]:port"; for kind "unix", an absolute path. The
	// unspecified addresses mean all of one family: 0.0.0.0 is IPv4, [::] is IPv6
	// and IPv6 only, so the two can have the same port.
	Bind string `toml:"bind" change:"hot"`

	// Public is what others reach the interface by: "ip:port" each. Left out, it
	// is Bind, or nothing where Bind means something on this machine only: an
	// unspecified address (0.0.0.0, [::]), one with a zone (fe80::1%eth0), a path.
	// Such an interface works, but there is no address of it to tell anybody.
	Public []string `toml:"public" change:"hot"`
}

// Peer is a known server. No two have the same name, or the same key.
type Peer struct {
	Name    string   `toml:"name" change:"hot"`    // message.CheckName, and not ours
	Key     string   `toml:"key" change:"hot"`     // identity.ParsePublicKey takes it; "": the first one seen
	Reaches []string `toml:"reaches" change:"hot"` // names of servers behind it, none of which has links here
	Links   []Link   `toml:"link" change:"hot"`    // none: it dials us
}

// Link is a way to reach a peer. No two of a peer are the same. Addresses are kept
// in their canonical spelling.
type Link struct {
	Kind    string   `toml:"kind" oneof:"tcp unix exec" change:"hot"` // "tcp" when left out
	Local   string   `toml:"local" change:"hot"`                      // the IP address to connect from, of remote's family; "": the system chooses
	Remote  string   `toml:"remote" change:"hot"`                     // "ip:port"; for kind "unix", an absolute path; for "exec", ""
	Command []string `toml:"command" change:"hot"`                    // the argv for kind "exec", whose stdin and stdout are the stream; else none
	Line    string   `toml:"line" change:"hot"`                       // what is known of a slow one: "rate=1200,latency=2.5s,metered,exclusive"; "": nothing
	Timeout Duration `toml:"timeout" range:"0s..52w" change:"hot"`    // without traffic, after which it is closed: 1s at least, or 0, which is never
	Cost    int      `toml:"cost" range:"1..65000" change:"hot"`      // the least is tried first, then the first written
}

// What a link has that says nothing else.
const (
	defaultTimeout = Duration(15 * time.Second)
	defaultCost    = 10
)

// logDir is where log files may be: the unit lets us write nowhere else.
const logDir = "/var/log/noipchat"

// Default returns the configuration of an empty file. It lacks a name and an
// interface, which have no default.
func Default() Config {
	var c Config
	c.MaxHops = 10
	c.Log = "journal"
	c.Federation.Unknown = "refuse"
	c.Federation.Unverified = "mark"
	c.Federation.FloodQuota = 64 * MiB
	c.Register.Mode = "closed"
	c.Limits.Sessions = 20_000
	c.Limits.Pending = 1024
	c.Limits.LoginFailures = 10
	c.Limits.LoginFailuresPerAddress = 50
	c.Limits.LoginWindow = Duration(15 * time.Minute)
	c.Limits.RegistrationsPerAddress = 5
	c.Spool.MaxAge = 30 * Day
	c.Spool.Quota = 256 * MiB
	c.Spool.Total = 16 * GiB
	c.Spool.Hand = 64 * MiB
	return c
}

// Render returns the configuration as TOML, every key of it. Loading that gives
// the same configuration again.
func (c *Config) Render() []byte {
	var out bytes.Buffer
	enc := toml.NewEncoder(&out)
	enc.Indent = ""
	enc.Encode(c) // can't fail: the buffer takes everything, and every type here has a TOML form
	return out.Bytes()
}

// Origin tells where the value of a key comes from: "file:line" or "default".
// Keys are spelled like "spool.max_age", "interface[0].bind" and
// "peer[0].link[1].cost", interfaces and peers counted from 0 over all files.
func (c *Config) Origin(key string) string {
	if p, ok := c.origin[key]; ok {
		return p.String()
	}
	return "default"
}
