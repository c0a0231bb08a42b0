package identity

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/noipchat/noipchat/daemon/durable"
	"github.com/noipchat/noipchat/daemon/message"
)

// schema is the version of what we write to disk.
const schema = 1

// maxFile bounds what is read of a file, in bytes.
const maxFile = 1 << 20

// record is users/<name>.json.
type record struct {
	Schema   int            `json:"schema"`
	Name     string         `json:"name"`
	Password string         `json:"password"` // PHC string
	Disabled bool           `json:"disabled"`
	Created  time.Time      `json:"created"`
	Devices  []deviceRecord `json:"devices"`
}

type deviceRecord struct {
	Key       string    `json:"key"` // not PublicKey, whose UnmarshalText checks what was checked before it was written
	Label     string    `json:"label"`
	Created   time.Time `json:"created"`
	Seen      time.Time `json:"seen,omitzero"`
	Suspended string    `json:"suspended,omitempty"`
}

func (a *account) record() record {
	r := record{Schema: schema, Name: a.name, Password: a.password.String(), Disabled: a.disabled,
		Created: a.created, Devices: make([]deviceRecord, len(a.devices))}
	for i, d := range a.devices {
		c := d.copy()
		r.Devices[i] = deviceRecord{Key: c.Key.String(), Label: c.Label, Created: c.Created, Seen: c.Seen, Suspended: c.Suspended}
	}
	return r
}

func parseAccount(name string, b []byte) (*account, error) {
	var r record
	if err := parseJSON(b, &r); err != nil {
		return nil, err
	}
	return r.account(name)
}

func (r *record) account(name string) (*account, error) {
	if r.Schema != schema {
		return nil, fmt.Errorf("schema %d is not known", r.Schema)
	}
	if r.Name != name {
		return nil, fmt.Errorf("it is about %.70q, not about %s", r.Name, name)
	}
	password, err := parseHashed(r.Password)
	if err != nil {
		return nil, err
	}
	a := &account{name: name, password: password, disabled: r.Disabled, created: r.Created}
	for i, dr := range r.Devices {
		key, err := decodePublicKey(dr.Key)
		if err != nil {
			return nil, fmt.Errorf("device %d: %w", i+1, err)
		}
		if err := checkLabel(dr.Label); err != nil {
			return nil, fmt.Errorf("device %d: %w", i+1, err)
		}
		if a.clash(key) != nil {
			return nil, fmt.Errorf("device %d: is there twice", i+1)
		}
		d := &device{Device: Device{ID: key.DeviceID(), Key: key, Label: dr.Label, Created: dr.Created, Suspended: message.Clean(dr.Suspended, message.MaxReason)}}
		if !dr.Seen.IsZero() {
			d.seen.Store(dr.Seen.UnixMilli())
		}
		a.devices = append(a.devices, d)
	}
	return a, nil
}

// formatJSON fails only when our clock is beyond the year 9999.
func formatJSON(v any) ([]byte, error) {
	b, err := json.MarshalIndent(v, "", "  ")
	return append(b, '\n'), err
}

// parseJSON takes one value of known fields and nothing after it.
func parseJSON(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("there is something after the end")
	}
	return nil
}

func (u *Users) folder() string { return filepath.Join(u.dir, "users") }

func (u *Users) path(name string) string { return filepath.Join(u.folder(), name+".json") }

// today is now as it is written to disk.
func (u *Users) today() time.Time { return u.o.Now().UTC().Truncate(time.Second) }

// OpenUsers reads the users below dir, the state directory of the server named
// home, makes what is missing there and removes what a crash left half written:
// the caller holds the lock of dir. Files that can't be understood are reported
// one by one, with their paths, and keep their names taken; the other users go on.
func OpenUsers(dir, home string, o Options) (u *Users, problems []error, err error) {
	if err := message.CheckName(home); err != nil {
		return nil, nil, fmt.Errorf("opening users: home: %w", err)
	}
	if err := o.defaults(); err != nil {
		return nil, nil, fmt.Errorf("opening users: %w", err)
	}
	u = &Users{dir: dir, home: home, o: o, hasher: o.Hasher}
	u.SetLimits(Limits{Failures: o.Failures, AddressFails: o.AddressFails, JoinsPerHour: o.JoinsPerHour, Window: o.Window})
	u.SetMode(o.Mode)
	if err := durable.MkdirAll(u.folder(), 0o700); err != nil {
		return nil, nil, fmt.Errorf("opening users: %w", err)
	}
	if err := errors.Join(durable.Sweep(u.folder()), durable.Sweep(dir)); err != nil {
		return nil, nil, fmt.Errorf("opening users: %w", err)
	}
	if problems, err = u.read(o.Carried); err != nil {
		return nil, nil, fmt.Errorf("opening users: %w", err)
	}
	u.o.Carried = nil
	return u, problems, nil
}

// Carried is users between two images of one process: what their files say. To write, read
// and open it costs half of what it costs to open those: see BenchmarkCarried10000.
type Carried []record

// Freeze lets nobody make changes, until Thaw or the end of the process.
func (u *Users) Freeze() { u.change.Lock() }

// Thaw undoes Freeze.
func (u *Users) Thaw() { u.change.Unlock() }

// Export returns all users whose files can be read, for an OpenUsers in another image.
// They are frozen.
func (u *Users) Export() Carried {
	u.mu.RLock()
	defer u.mu.RUnlock()
	all := make(Carried, 0, len(u.accounts))
	for _, a := range u.accounts {
		all = append(all, a.record())
	}
	return all
}

// CheckUsers returns the problems that OpenUsers would find below dir, also while
// another process has it open. It changes nothing.
func CheckUsers(dir string) []error {
	u := &Users{dir: dir}
	problems, err := u.read(nil)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		problems = append(problems, fmt.Errorf("checking users: %w", err))
	}
	return problems
}

// read fills u from the disk, except for those whom carried has.
func (u *Users) read(carried Carried) (problems []error, err error) {
	files, err := os.ReadDir(u.folder())
	if err != nil {
		return nil, err
	}
	known := make(map[string]*record, len(carried))
	for i := range carried {
		known[carried[i].Name] = &carried[i]
	}
	u.accounts = make(map[string]*account, len(files))
	u.logins = make(map[login]*device, len(files))
	u.damaged = make(map[string]bool)
	for _, f := range files {
		if strings.HasPrefix(f.Name(), ".") { // a file that is being written
			continue
		}
		path := filepath.Join(u.folder(), f.Name())
		name, isUser := strings.CutSuffix(f.Name(), ".json")
		if !isUser || message.CheckName(name) != nil || !f.Type().IsRegular() {
			problems = append(problems, spoiltf("%s does not belong there; move it away", path))
			continue
		}
		var a *account
		r, ok := known[name]
		if ok {
			a, err = r.account(name)
		}
		if !ok || err != nil {
			a, err = readAccount(path, name)
		}
		if err != nil {
			u.damaged[name] = true
			problems = append(problems, useless(path, name+" can't log in", "restore it, or remove the user", err))
			continue
		}
		u.publishLocked(name, a)
	}
	if err := u.readInvites(); err != nil {
		problems = append(problems, err)
	}
	return problems, nil
}

func readAccount(path, name string) (*account, error) {
	b, err := readFile(path)
	if err != nil {
		return nil, err
	}
	return parseAccount(name, b)
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("larger than %d bytes", maxFile)
	}
	return b, err
}

// useless says what follows from a file that can't be used. Advice is for one that is
// damaged: nobody is to move a good one away because he may not read it.
func useless(path, so, advice string, err error) error {
	if unread, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Errorf("%s can't be read, %s: %w", path, so, unread.Err)
	}
	return spoiltf("%s is damaged, %s (%s): %w", path, so, advice, err)
}

// ErrSpoilt is what errors are of a file of the state that somebody has to mend. They say how.
var ErrSpoilt = errors.New("spoilt")

// spoilt is an error that is ErrSpoilt, and does not say that word.
type spoilt struct{ error }

func (s spoilt) Is(target error) bool { return target == ErrSpoilt }
func (s spoilt) Unwrap() error        { return s.error }

func spoiltf(format string, args ...any) error { return spoilt{fmt.Errorf(format, args...)} }

// invitesPath is next to the folder of users, or a user could be called so.
func (u *Users) invitesPath() string { return filepath.Join(u.dir, "invites.json") }

func (u *Users) readInvites() error {
	b, err := readFile(u.invitesPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		u.invites, err = parseInvites(b)
	}
	if err != nil {
		u.lost = useless(u.invitesPath(), "so no invitation is valid", "move it away to make new ones", err)
	}
	return u.lost
}
