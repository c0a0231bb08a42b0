package identity

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/noipchat/noipchat/daemon/durable"
	"github.com/noipchat/noipchat/daemon/message"
)

// serversFile is servers.json.
type serversFile struct {
	Schema  int            `json:"schema"`
	Servers []serverRecord `json:"servers"`
	Refused []serverRecord `json:"refused"` // without a standing, as those below
	Waiting []serverRecord `json:"waiting"`
}

type serverRecord struct {
	Name     string    `json:"name"`
	Key      string    `json:"key,omitempty"` // "": a name that is distrusted, of whom no key was seen
	Standing string    `json:"standing,omitempty"`
	Since    time.Time `json:"since"`
}

// OpenServers reads servers.json in dir, for the server of this name and key. It
// takes no configuration yet: Configure does. If the file is damaged, that is an
// error, the file is left alone, and only what the configuration pins is let in.
func OpenServers(dir, name string, key PublicKey) (*Servers, error) {
	s := &Servers{path: filepath.Join(dir, "servers.json"), homesPath: filepath.Join(dir, "homes.json"), self: name, key: key,
		known: map[string]kept{}, refused: map[string]kept{}, homes: map[string]kept{}}
	s.lost, s.lostHomes = s.read(), s.readHomes()
	return s, errors.Join(s.lost, s.lostHomes)
}

// CheckServers returns the problem that OpenServers would find in dir, also while
// another process has it open.
func CheckServers(dir string) error {
	s := &Servers{path: filepath.Join(dir, "servers.json"), homesPath: filepath.Join(dir, "homes.json")}
	return errors.Join(s.read(), s.readHomes())
}

func (s *Servers) read() error {
	b, err := readFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = s.parse(b)
	}
	if err != nil {
		return useless(s.path, "so only servers whose key the configuration has are let in",
			"restore it, or move it away: then the next key that each shows is taken", err)
	}
	return nil
}

// parse takes what is in the file, all of it or, if any is wrong, nothing.
func (s *Servers) parse(b []byte) error {
	var f serversFile
	if err := parseJSON(b, &f); err != nil {
		return err
	}
	switch {
	case f.Schema != schema:
		return fmt.Errorf("schema %d is not known", f.Schema)
	case len(f.Waiting) > maxWaiting:
		return fmt.Errorf("%d servers wait", len(f.Waiting))
	}
	known, err := keptOf(f.Servers, FirstSeen, Confirmed, Distrusted)
	if err != nil {
		return err
	}
	refused, err := keptOf(f.Refused, New)
	if err != nil {
		return err
	}
	var waiting []Server
	for _, r := range f.Waiting {
		k, err := r.kept(New)
		if err != nil {
			return err
		}
		waiting = append(waiting, Server{Name: r.Name, Key: k.key, Standing: Waiting, Since: k.since})
	}
	s.known, s.refused, s.waiting = known, refused, waiting
	return nil
}

func keptOf(records []serverRecord, standings ...Standing) (map[string]kept, error) {
	all := make(map[string]kept, len(records))
	for _, r := range records {
		k, err := r.kept(standings...)
		if err != nil {
			return nil, err
		}
		if _, twice := all[r.Name]; twice {
			return nil, fmt.Errorf("%s is there twice", r.Name)
		}
		all[r.Name] = k
	}
	return all, nil
}

// kept reads a record, whose standing must be one of these; New is not written.
func (r serverRecord) kept(standings ...Standing) (k kept, err error) {
	if err := message.CheckName(r.Name); err != nil {
		return k, err
	}
	i := slices.IndexFunc(standings, func(s Standing) bool { return s.String() == r.Standing || s == New && r.Standing == "" })
	if i < 0 {
		return k, fmt.Errorf("%s: standing %.20q", r.Name, r.Standing)
	}
	k = kept{standing: standings[i], since: r.Since}
	if r.Key == "" && k.standing == Distrusted {
		return k, nil
	}
	if k.key, err = decodePublicKey(r.Key); err != nil {
		return k, fmt.Errorf("%s: %w", r.Name, err)
	}
	return k, nil
}

func (k kept) record(name string) serverRecord {
	r := serverRecord{Name: name, Since: k.since}
	if k.standing != New {
		r.Standing = k.standing.String()
	}
	if !k.key.IsZero() {
		r.Key = k.key.String()
	}
	return r
}

// write changes what is known, on disk first. The caller holds change.
func (s *Servers) write(set func(known map[string]kept)) error {
	if s.lost != nil {
		return s.lost
	}
	s.mu.Lock()
	known := maps.Clone(s.known)
	set(known)
	b, err := s.formatLocked(known)
	s.dirty = false
	s.mu.Unlock()
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("%d servers are too many for it", len(known))
	}
	if err == nil {
		err = durable.WriteFile(s.path, b, 0o600)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.dirty = true
		return fmt.Errorf("storing what is known of servers: %w", err)
	}
	s.known = known
	return nil
}

func (s *Servers) formatLocked(known map[string]kept) ([]byte, error) {
	f := serversFile{Schema: schema, Servers: records(known), Refused: records(s.refused), Waiting: []serverRecord{}}
	for _, w := range s.waiting {
		f.Waiting = append(f.Waiting, kept{w.Key, New, w.Since}.record(w.Name))
	}
	return formatJSON(f)
}

func records(all map[string]kept) []serverRecord {
	list := make([]serverRecord, 0, len(all))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		list = append(list, all[name].record(name))
	}
	return list
}

// Close writes who waits and which keys were refused, if that has changed. Nobody
// is met any more.
func (s *Servers) Close() error {
	s.change.Lock()
	defer s.change.Unlock()
	s.mu.Lock()
	dirty := s.dirty && s.lost == nil
	s.mu.Unlock()
	if !dirty {
		return nil
	}
	return s.write(func(map[string]kept) {})
}
