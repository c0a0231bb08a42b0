package identity

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"

	"github.com/noipchat/noipchat/daemon/durable"
)

// Servers that are known only by way of others have keys that nobody has proved to us:
// an announcement says one, or what came along with a message. Such a key is no standing.
// But the first one by which a receipt was believed, and our own copy of a message deleted,
// is kept in homes.json, and no other one counts for that name any more, until the
// server is met, pinned or confirmed. So who wants to report in a server's name has to be
// on the way from the first message on.

// homesFile is homes.json.
type homesFile struct {
	Schema int            `json:"schema"`
	Homes  []serverRecord `json:"homes"` // without a standing
}

// maxHomes bounds them: of more servers, nothing is believed. Only names count that users of
// ours have written to.
const maxHomes = 4096

func (s *Servers) readHomes() error {
	b, err := readFile(s.homesPath)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var f homesFile
	if err == nil {
		err = parseJSON(b, &f)
	}
	if err == nil && f.Schema != schema {
		err = fmt.Errorf("schema %d is not known", f.Schema)
	}
	if err == nil {
		s.homes, err = keptOf(f.Homes, New)
	}
	if err != nil {
		s.homes = map[string]kept{}
		return useless(s.homesPath, "so receipts of servers that were never met directly, and are not pinned, end nothing",
			"restore it, or move it away: then the next key that each shows is taken", err)
	}
	return nil
}

// First returns the key by which a server that was never met was believed first; the zero
// key if none was.
func (s *Servers) First(name string) PublicKey {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.homes[name].key
}

// Believe keeps a key as the first one of a server that was never met, durably, and tells
// whether it is that.
func (s *Servers) Believe(name string, key PublicKey) (bool, error) {
	s.change.Lock()
	defer s.change.Unlock()
	s.mu.Lock()
	homes := s.homes
	s.mu.Unlock()
	first, found := homes[name]
	switch {
	case s.lostHomes != nil:
		return false, s.lostHomes
	case found || len(homes) >= maxHomes:
		return first.key == key, nil
	}
	homes = maps.Clone(homes)
	homes[name] = kept{key, New, today()}
	b, err := formatJSON(homesFile{schema, records(homes)})
	if err == nil {
		err = durable.WriteFile(s.homesPath, b, 0o600)
	}
	if err != nil {
		return false, fmt.Errorf("keeping the first key of %s: %w", name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.homes = homes
	return true, nil
}
