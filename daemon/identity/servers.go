package identity

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
)

// Servers holds the keys of other servers that are met directly: those that the
// configuration pins, the first ones seen, those that an admin has confirmed or
// distrusts, and in memory who waits to be trusted. It decides who is let in.
//
// A key that is kept is durable before anybody sees it. Strangers can't make it
// write: who waits, and which keys were refused, is written at the stop and
// together with what is kept. If writing fails nothing is changed as far as this
// process goes; after a restart either may be true.
type Servers struct {
	path string
	self string // our name
	key  PublicKey
	lost error // why servers.json can't be read; then nothing is written

	homesPath string
	lostHomes error // why homes.json can't be read; the same

	change sync.Mutex // held by who writes, over the disk, before mu

	mu      sync.Mutex // guards what follows
	peers   map[string]PublicKey
	unknown Unknown
	known   map[string]kept // replaced, never altered
	refused map[string]kept // names that are peers or known: the last other key that was shown
	waiting []Server        // who was seen longest ago is first
	homes   map[string]kept // see First; replaced, never altered
	dirty   bool            // refused or waiting are not as on disk
}

// kept is a key, since when, and for which reason.
type kept struct {
	key      PublicKey
	standing Standing // FirstSeen, Confirmed or Distrusted; of refused ones: New
	since    time.Time
}

// Server is what is known of one.
type Server struct {
	Name     string
	Key      PublicKey // zero: none was seen yet
	Standing Standing
	Since    time.Time // that it has this standing; zero: the configuration says so
	Peer     bool      // the configuration has it

	Refused   PublicKey // another key that was shown under this name, the last one; zero: none
	RefusedAt time.Time
}

// Unknown says what becomes of servers that the configuration doesn't have.
type Unknown uint8

// The ways to treat them.
const (
	RefuseUnknown Unknown = iota
	AskUnknown            // they wait for Trust
	AcceptUnknown         // their first key is kept
)

var unknowns = []string{"refuse", "ask", "accept"}

// ParseUnknown reads "refuse", "ask" or "accept".
func ParseUnknown(s string) (Unknown, error) {
	i := slices.Index(unknowns, s)
	if i < 0 {
		return 0, fmt.Errorf("%.20q is no way to treat unknown servers", s)
	}
	return Unknown(i), nil
}

// What strangers can make us remember.
const (
	maxWaiting = 64   // one more, and who was seen longest ago is forgotten
	maxKnown   = 1024 // above which AcceptUnknown takes no more
)

// ErrNoServer says that nothing is known of a server.
var ErrNoServer = errors.New("no such server")

// Configure puts in force which servers the configuration has, each with the key
// that it pins or the zero key, and what becomes of others. A pinned key takes the
// place of one that was kept.
func (s *Servers) Configure(peers map[string]PublicKey, unknown Unknown) {
	s.change.Lock() // or who writes now would bring back what goes
	defer s.change.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	before := len(s.known) + len(s.refused) + len(s.waiting)
	s.peers, s.unknown, s.known = maps.Clone(peers), unknown, maps.Clone(s.known)
	for name, pin := range peers {
		if pin.IsZero() {
			continue
		}
		if k := s.known[name]; k.key != pin && k.standing != Distrusted {
			delete(s.known, name)
		}
		if s.refused[name].key == pin {
			delete(s.refused, name)
		}
		s.waiting = slices.DeleteFunc(s.waiting, func(w Server) bool { return w.Name == name })
	}
	maps.DeleteFunc(s.refused, func(name string, _ kept) bool { return !s.hasLocked(name) })
	s.dirty = s.dirty || len(s.known)+len(s.refused)+len(s.waiting) != before
}

// hasLocked tells whether a name is a peer's or known.
func (s *Servers) hasLocked(name string) bool {
	_, isPeer := s.peers[name]
	_, isKnown := s.known[name]
	return isPeer || isKnown
}

// Meet decides about a server that has proved to hold key and calls itself name,
// whoever dialled. It returns its standing, FirstSeen at least, or why it is not let
// in: a *ChangedKeyError, which is remembered for the admin, a *message.Refusal, or
// an error of the disk.
func (s *Servers) Meet(name string, key PublicKey) (Standing, error) {
	if err := message.CheckName(name); err != nil || key.IsZero() {
		return New, message.Refuse(message.CodeInvalid, "a server needs a name and a key")
	}
	if standing, err := s.judge(name, key); err != nil || standing != New {
		return standing, err
	}
	s.change.Lock()
	defer s.change.Unlock()
	if standing, err := s.judge(name, key); err != nil || standing != New { // somebody was quicker
		return standing, err
	}
	err := s.write(func(known map[string]kept) { known[name] = kept{key, FirstSeen, today()} })
	if err != nil {
		return New, fmt.Errorf("keeping the key of %s: %w", name, err)
	}
	return FirstSeen, nil
}

// judge is Meet without the keeping: New stands for a key that is to be kept.
func (s *Servers) judge(name string, key PublicKey) (Standing, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pin, isPeer := s.peers[name]
	known, found := s.known[name]
	holder := s.holderLocked(key, FirstSeen, Confirmed, Pinned)
	switch {
	case name == s.self || key == s.key:
		return New, message.Refuse(message.CodeExists, "name or key are those of this server, %s", s.self)
	case known.standing == Distrusted || s.holderLocked(key, Distrusted) != "":
		return Distrusted, message.Refuse(message.CodeNotAllowed, "%s distrusts this server", s.self)
	case !pin.IsZero() && pin != key:
		return New, s.changedLocked(name, pin, key)
	case !pin.IsZero():
		return Pinned, nil
	case found && known.key != key:
		return New, s.changedLocked(name, known.key, key)
	case holder != "" && holder != name:
		return New, message.Refuse(message.CodeExists, "%s knows this key under another name", s.self)
	case known.standing == Confirmed || found && (isPeer || s.unknown == AcceptUnknown):
		return known.standing, nil
	case !found && (isPeer || s.unknown == AcceptUnknown) && s.lost != nil:
		return New, s.lost
	case isPeer:
		return New, nil
	case s.unknown == AskUnknown:
		s.waitLocked(name, key)
		return Waiting, message.Defer(message.CodeNotAllowed, time.Minute, "an admin of %s has to trust this server first", s.self)
	case s.unknown == RefuseUnknown:
		return New, message.Refuse(message.CodeNotAllowed, "%s doesn't know this server", s.self)
	case len(s.known) >= maxKnown:
		return New, message.Defer(message.CodeLater, time.Hour, "%s knows too many servers", s.self)
	}
	return New, nil
}

// holderLocked returns whose key this is among those that stand so; "": nobody's.
func (s *Servers) holderLocked(key PublicKey, standings ...Standing) string {
	if key.IsZero() {
		return ""
	}
	for name, k := range s.known {
		if k.key == key && slices.Contains(standings, k.standing) {
			return name
		}
	}
	for name, pin := range s.peers {
		if pin == key && slices.Contains(standings, Pinned) {
			return name
		}
	}
	return ""
}

func (s *Servers) changedLocked(name string, want, got PublicKey) error {
	s.refused[name] = kept{got, New, today()}
	s.dirty = true
	return &ChangedKeyError{Name: name, Want: want, Got: got}
}

func (s *Servers) waitLocked(name string, key PublicKey) {
	w := Server{Name: name, Key: key, Standing: Waiting, Since: today()}
	if i := slices.IndexFunc(s.waiting, func(w Server) bool { return w.Name == name && w.Key == key }); i >= 0 {
		w = s.waiting[i]
		s.waiting = slices.Delete(s.waiting, i, i+1)
	} else if len(s.waiting) == maxWaiting {
		s.waiting = slices.Delete(s.waiting, 0, 1)
	}
	s.waiting = append(s.waiting, w)
	s.dirty = true
}

// Known returns the key of a server and its standing, FirstSeen at least; New if
// there is none that is trusted.
func (s *Servers) Known(name string) (PublicKey, Standing) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.known[name]
	switch pin := s.peers[name]; {
	case known.standing == Distrusted:
		return PublicKey{}, New
	case !pin.IsZero():
		return pin, Pinned
	}
	return known.key, known.standing
}

// List returns all that is known, in the order of names; who waits is last.
func (s *Servers) List() []Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	waiting := slices.Clone(s.waiting)
	slices.SortStableFunc(waiting, func(a, b Server) int { return cmp.Compare(a.Name, b.Name) })
	return append(s.listLocked(), waiting...)
}

// listLocked is List without who waits.
func (s *Servers) listLocked() (all []Server) {
	names := slices.AppendSeq(slices.Collect(maps.Keys(s.peers)), maps.Keys(s.known))
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		all = append(all, s.serverLocked(name))
	}
	return all
}

func (s *Servers) serverLocked(name string) Server {
	pin, isPeer := s.peers[name]
	k, other := s.known[name], s.refused[name]
	v := Server{Name: name, Key: k.key, Standing: k.standing, Since: k.since, Peer: isPeer, Refused: other.key, RefusedAt: other.since}
	switch {
	case pin.IsZero():
	case k.standing == Distrusted:
		v.Key = pin
	default:
		v.Key, v.Standing, v.Since = pin, Pinned, time.Time{}
	}
	return v
}

// Trust confirms a key of a server, which who names by its name, if there is only
// one that may be meant, or by the key's fingerprint: one that waits, was seen first,
// is distrusted, or was refused because another one is known, whose place it takes.
func (s *Servers) Trust(who string) (Server, error) {
	s.change.Lock()
	defer s.change.Unlock()
	s.mu.Lock()
	chosen, err := s.chooseLocked(who)
	pin := s.peers[chosen.Name]
	holder := s.holderLocked(chosen.Key, FirstSeen, Confirmed, Pinned)
	s.mu.Unlock()
	switch {
	case err != nil:
		return Server{}, err
	case !pin.IsZero() && chosen.Key != pin:
		return Server{}, message.Refuse(message.CodeInvalid, "the configuration pins another key for %s, %s: change that", chosen.Name, pin.Fingerprint())
	case holder != "" && holder != chosen.Name:
		return Server{}, message.Refuse(message.CodeExists, "that key is known as %s's", holder)
	}
	return s.decide(chosen.Name, func(known map[string]kept) {
		if delete(known, chosen.Name); pin.IsZero() && !chosen.Key.IsZero() {
			known[chosen.Name] = kept{chosen.Key, Confirmed, today()}
		}
	})
}

// chooseLocked finds the one server and key that somebody means. What looks like a
// fingerprint is no name here, because a stranger may call himself so.
func (s *Servers) chooseLocked(who string) (Server, error) {
	byKey := fingerprint.MatchString(who)
	all := slices.Concat(s.listLocked(), s.waiting)
	for name, other := range s.refused {
		all = append(all, Server{Name: name, Key: other.key})
	}
	all = slices.DeleteFunc(all, func(v Server) bool {
		if byKey {
			return v.Key.IsZero() || v.Key.Fingerprint() != who
		}
		return v.Name != who
	})
	all = slices.CompactFunc(all, func(a, b Server) bool { return a.Name == b.Name && a.Key == b.Key }) // seen first, and waiting now
	switch {
	case len(all) == 0:
		return Server{}, fmt.Errorf("%s: %w", who, ErrNoServer)
	case len(all) > 1 && byKey:
		return Server{}, message.Refuse(message.CodeInvalid, "%d servers have this fingerprint", len(all))
	case len(all) > 1:
		return Server{}, message.Refuse(message.CodeInvalid, "%s has shown %d keys: say which by its fingerprint", who, len(all))
	case all[0].Key.IsZero() && all[0].Standing != Distrusted:
		return Server{}, message.Refuse(message.CodeInvalid, "no key of %s was seen yet", who)
	}
	return all[0], nil
}

var fingerprint = regexp.MustCompile(`^[0-9a-f]{4}(-[0-9a-f]{4}){3}$`)

// Distrust refuses a server from now on, its name as well as its key, until Trust.
// Whoever has a link to it ends that.
func (s *Servers) Distrust(name string) (Server, error) {
	s.change.Lock()
	defer s.change.Unlock()
	s.mu.Lock()
	key, found := s.serverLocked(name).Key, s.hasLocked(name)
	for _, w := range s.waiting {
		if w.Name == name && !found {
			key, found = w.Key, true
		}
	}
	s.mu.Unlock()
	if !found {
		return Server{}, fmt.Errorf("%s: %w", name, ErrNoServer)
	}
	return s.decide(name, func(known map[string]kept) { known[name] = kept{key, Distrusted, today()} })
}

// decide makes what an admin says of a server durable, and settles what was open.
// The caller holds change.
func (s *Servers) decide(name string, set func(known map[string]kept)) (Server, error) {
	if err := s.write(set); err != nil {
		return Server{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.refused, name)
	s.waiting = slices.DeleteFunc(s.waiting, func(w Server) bool { return w.Name == name })
	s.dirty = true
	return s.serverLocked(name), nil
}

// today is now as it is written to disk.
func today() time.Time { return time.Now().UTC().Truncate(time.Second) }
