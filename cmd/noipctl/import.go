package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"filippo.io/age"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/noipchat/noipchat/cmd/cli"
	"github.com/noipchat/noipchat/daemon/backup"
	"github.com/noipchat/noipchat/daemon/config"
	"github.com/noipchat/noipchat/daemon/durable"
	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/transport"
	"github.com/noipchat/noipchat/daemon/wire"
)

// importing is a server on its way to this machine. Its files wait in a folder inside of
// the state, which may be a disk of its own; the configuration comes last, because without
// it no server starts.
type importing struct {
	*app
	cmd                        *cobra.Command
	path, passphrase, identity string
	config, state              string
	force                      bool
	again                      bool // an import was killed here
	manifest                   backup.Manifest
	loaded                     *config.Config
	texts                      map[string]string // of the configuration, by path
	have                       int64             // bytes
	progress                   *cli.Progress
}

// mostWork is the logarithm of how hard a passphrase may be to check: age's own 18 takes a second and
// 256 MiB, and this four times that.
const mostWork = 20

func (a *app) importCommand() *cobra.Command {
	i := &importing{app: a, texts: map[string]string{}}
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "make this machine the server that a sealed file has",
		Long: "Opens what export wrote, checks it, and puts state and configuration into their places, all of it\n" +
			"or nothing. There must be no server here yet. It refuses while the server still answers at one of its\n" +
			"addresses: two with one key would tear the mail of all apart. FILE - is standard input.",
		Example: "noipctl import server1.age\nnoipctl import --identity key.txt server1.age",
		Args:    cli.Args("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			i.cmd, i.path = cmd, args[0]
			return i.run()
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&i.passphrase, "passphrase-file", "", "take the passphrase from the first line of `FILE`")
	flags.StringVar(&i.identity, "identity", "", "open it with the key in `FILE`, of age-keygen")
	flags.BoolVar(&i.force, "force", false, "even if the server answers elsewhere")
	flags.StringVar(&i.state, "state", defaultState, "the state goes into `DIR`")
	flags.StringVar(&i.config, "config", defaultConfig, "the configuration goes into `FILE`, and conf.d beside it")
	return cmd
}

func (i *importing) run() error {
	if err := i.vacant(); err != nil {
		return err
	}
	from, err := i.unseal()
	if err != nil {
		return err
	}
	_, there := os.Stat(i.state)
	lock := filepath.Join(i.state, backup.Lock)
	_, locked := os.Stat(lock)
	if err := durable.MkdirAll(i.state, 0o700); err != nil {
		return err
	}
	err = i.into(from)
	if err != nil && locked != nil {
		os.Remove(lock) // it is ours, and the server could not open it
	}
	if err != nil && there != nil {
		os.Remove(i.state)
	}
	if err != nil {
		return err
	}
	return i.say()
}

// refuse says that there is a server here.
func (i *importing) refuse(path string) error {
	return &cli.Error{Code: cli.ExitRefused, Err: fmt.Errorf("there is a server here: %s", path),
		Hint: fmt.Sprintf("if it can go: %s; mv %s %s.old; mv %s %s.old", stopUnits, i.state, i.state, filepath.Dir(i.config), filepath.Dir(i.config))}
}

// vacant tells whether there is no server here, or only what an import has left that was
// killed: that never ran, and has no configuration, which comes last.
func (i *importing) vacant() error {
	_, imported := os.Lstat(filepath.Join(i.state, backup.Imported))
	_, configured := os.Lstat(i.config)
	i.again = imported == nil && errors.Is(configured, fs.ErrNotExist)
	entries, err := os.ReadDir(i.state)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if !i.again && !stays(e.Name()) && !durable.IsTemp(e.Name()) {
			return i.refuse(filepath.Join(i.state, e.Name()))
		}
	}
	files, err := config.Files(i.config)
	if err != nil {
		return err
	}
	for _, f := range files {
		if _, err := os.Lstat(f); err == nil && !i.again {
			return i.refuse(f)
		}
	}
	return nil
}

// stays tells of a name in the folder that it is no server's.
func stays(name string) bool {
	return name == backup.Lock || name == backup.Unpacked || name == "lost+found"
}

// unseal opens the file.
func (i *importing) unseal() (io.Reader, error) {
	file := i.cmd.InOrStdin()
	if i.path != "-" {
		f, err := os.Open(i.path)
		if err != nil {
			return nil, err
		}
		file = f // until the program's end
	}
	var keys []age.Identity
	switch {
	case i.identity != "" && i.passphrase != "":
		return nil, cli.Misuse("one of them", "a file has a passphrase or recipients")
	case i.identity != "":
		f, err := os.Open(i.identity)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		if keys, err = age.ParseIdentities(f); err != nil {
			return nil, cli.Misuse("age-keygen writes such a file", "%s: %w", i.identity, err)
		}
	case i.path == "-" && i.passphrase == "":
		return nil, cli.Misuse("use --passphrase-file FILE, or --identity FILE", "standard input is the export, and can't have the passphrase too")
	default:
		p, err := i.secret(false, i.passphrase)
		if err != nil {
			return nil, err
		}
		key, err := age.NewScryptIdentity(p)
		if err != nil {
			return nil, err
		}
		key.SetMaxWorkFactor(mostWork)
		keys = []age.Identity{key}
	}
	r, err := age.Decrypt(file, keys...)
	runtime.GC() // a passphrase took 256 MiB, and as much again would come before they were missed
	if _, wrong := errors.AsType[*age.NoIdentityMatchError](err); wrong {
		return nil, &cli.Error{Code: cli.ExitRefused, Err: fmt.Errorf("%s: the passphrase is wrong, or it is sealed for another key", i.path), Hint: "a file for recipients is opened with --identity FILE"}
	}
	if err != nil {
		return nil, i.broken(err)
	}
	return &ended{r}, nil
}

// broken is an error of the file, in which nobody can do anything but take another one.
func (i *importing) broken(err error) error {
	return &cli.Error{Code: cli.ExitIO, Err: fmt.Errorf("%s: %w", i.path, err), Hint: "it is no whole export: take another copy; nothing was changed here"}
}

// ended has what age says of the file, so that it is no error of the disk here.
type ended struct{ io.Reader }

func (e *ended) Read(b []byte) (int, error) {
	n, err := e.Reader.Read(b)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("%w: %w", backup.ErrDamaged, err)
	}
	return n, err
}

// into takes a stream apart, and puts all of it into its places.
func (i *importing) into(from io.Reader) error {
	lock, err := durable.Lock(filepath.Join(i.state, backup.Lock))
	if err != nil {
		return inUse(err)
	}
	defer lock.Close()
	dir := filepath.Join(i.state, backup.Unpacked)
	if err := os.RemoveAll(dir); err != nil { // of an import that was killed
		return err
	}
	defer os.RemoveAll(dir)
	i.progress = cli.NewProgress()
	defer i.progress.End()
	switch err := backup.Read(from, i.begin, i.put); {
	case errors.Is(err, backup.ErrDamaged):
		return i.broken(err)
	case err != nil:
		return err
	}
	key, err := identity.LoadKey(filepath.Join(dir, "key"))
	if err != nil || i.loaded == nil || key.Public().String() != i.manifest.Key {
		return i.broken(fmt.Errorf("%w: it has no key of a server, or no configuration", backup.ErrDamaged))
	}
	return i.settle(dir)
}

func (i *importing) begin(m backup.Manifest) error {
	i.manifest = m
	var disk unix.Statfs_t
	if err := unix.Statfs(i.state, &disk); err != nil {
		return err
	}
	if free := int64(disk.Bavail) * int64(disk.Bsize); m.Bytes > free {
		return &cli.Error{Code: cli.ExitIO, Err: fmt.Errorf("%s needs %s, and there are %s on the disk of %s", m.Server, cli.Size(m.Bytes), cli.Size(free), i.state), Hint: "make room there: df -h"}
	}
	return os.Mkdir(filepath.Join(i.state, backup.Unpacked), 0o700)
}

// put takes a file. Those of the configuration come first, and say where the server may
// still be.
func (i *importing) put(name string, size int64, r io.Reader) error {
	if below, ok := strings.CutPrefix(name, "config/"); ok {
		if i.loaded != nil || len(i.texts) > 1000 {
			return fmt.Errorf("%w: %s comes too late", backup.ErrDamaged, name)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			return fmt.Errorf("%w: %w", backup.ErrDamaged, err)
		}
		path := i.config
		if below != "main.toml" {
			path = filepath.Join(filepath.Dir(i.config), below)
		}
		i.texts[path] = string(b)
		i.have += size
		return nil
	}
	if i.loaded == nil {
		if err := i.meet(); err != nil {
			return err
		}
	}
	path := filepath.Join(i.state, backup.Unpacked, strings.TrimPrefix(name, "state/"))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(counted(f, r, &i.have, i.manifest, i.progress), f.Close())
}

// meet checks the configuration, and looks whether the server answers where that says.
func (i *importing) meet() (err error) {
	files, err := config.Files(i.config) // there are none, or those of an import that was killed
	if err != nil {
		return err
	}
	for _, f := range files {
		if have, err := os.ReadFile(f); err == nil && string(have) != i.texts[f] {
			return i.refuse(f)
		}
	}
	if i.loaded, err = config.LoadWith(i.config, i.texts); err != nil {
		return err
	}
	if i.loaded.Name != i.manifest.Server {
		return fmt.Errorf("%w: it is %s by its manifest and %s by its configuration", backup.ErrDamaged, i.manifest.Server, i.loaded.Name)
	}
	key, err := identity.ParsePublicKey(i.manifest.Key)
	if err != nil {
		return fmt.Errorf("%w: %w", backup.ErrDamaged, err)
	}
	if i.force {
		return nil
	}
	for _, f := range i.loaded.Interfaces {
		addresses := f.Public
		if addresses == nil && f.Kind != "unix" && !unspecified(f.Bind) {
			addresses = []string{f.Bind}
		}
		for _, a := range addresses {
			i.progress.Show("does %s answer at %s?", i.manifest.Server, a)
			if answers(i.cmd.Context(), a, key) {
				return &cli.Error{Code: cli.ExitRefused, Err: fmt.Errorf("%s answers at %s: it runs elsewhere, with this key", i.manifest.Server, a),
					Hint: "stop it there first: " + stopUnits + "\nIf what it has had since the export may be lost, and it never comes back: --force"}
			}
		}
	}
	return nil
}

// answers tells whether a server with a key is at an address.
func answers(ctx context.Context, address string, key identity.PublicKey) bool {
	dialling, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := transport.Dial(dialling, "tcp", "", address)
	if err != nil {
		return false
	}
	asking, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	h, err := wire.Ask(asking, conn, identity.NewKey())
	return err == nil && [32]byte(h.Key[:32]) == [32]byte(key[:32]) // the half that is proved
}

// settle moves what is complete into its places, or takes it back. Where it is killed, the
// service has no configuration to start with; and until the last file has moved, noipchatd
// refuses the folder, which has both Imported and Unpacked.
func (i *importing) settle(dir string) (err error) {
	var moved []string
	defer func() {
		if err != nil {
			for _, path := range slices.Backward(moved) {
				err = errors.Join(err, os.RemoveAll(path))
			}
		}
	}()
	if err := i.clear(); err != nil {
		return err
	}
	mark := filepath.Join(i.state, backup.Imported)
	moved = append(moved, mark)
	if err := durable.WriteFile(mark, nil, 0o600); err != nil {
		return err
	}
	if err := errors.Join(os.Chmod(i.state, 0o700), i.own()); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return err
	}
	entries, err := d.ReadDir(-1)
	if err != nil {
		return err
	}
	for _, e := range entries {
		to := filepath.Join(i.state, e.Name())
		if err := os.Rename(filepath.Join(dir, e.Name()), to); err != nil {
			return err
		}
		moved = append(moved, to)
	}
	if err := errors.Join(durable.SyncDir(i.state), os.Remove(dir), durable.SyncDir(i.state)); err != nil {
		return err
	}
	if err := durable.MkdirAll(filepath.Dir(i.config), 0o750); err != nil {
		return err
	}
	_, err = (&setup{path: i.config}).write(i.texts)
	return err
}

// clear removes what an import has left that was killed, its mark last.
func (i *importing) clear() error {
	entries, err := os.ReadDir(i.state)
	for _, e := range entries {
		if !stays(e.Name()) && e.Name() != backup.Imported {
			err = errors.Join(err, os.RemoveAll(filepath.Join(i.state, e.Name())))
		}
	}
	return errors.Join(err, durable.SyncDir(i.state))
}

// own gives the state to who runs the service: the owner of the folder, if that was there
// before, or the user noipchat.
func (i *importing) own() error {
	info, err := os.Stat(i.state)
	if err != nil || os.Geteuid() != 0 {
		return err
	}
	s := info.Sys().(*syscall.Stat_t)
	uid, gid := int(s.Uid), int(s.Gid)
	if u, err := user.Lookup("noipchat"); err == nil && uid == 0 && i.state == defaultState {
		uid, gid = int(number(u.Uid)), int(number(u.Gid))
	}
	return filepath.WalkDir(i.state, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() == "lost+found" {
			return err
		}
		return os.Lchown(path, uid, gid)
	})
}

// say says what came, and what to type next.
func (i *importing) say() error {
	start := []string{startUnits, "noipctl check"}
	if !onSystemd(i.config) {
		start = []string{"noipchatd --config " + i.config + " --state " + i.state}
	}
	if strange := i.strange(); len(strange) > 0 {
		start = slices.Insert(start, 0, "noipctl guide --no-start   # this machine does not have "+strings.Join(strange, ", "))
	}
	if i.json {
		return cli.JSON(i.cmd.OutOrStdout(), struct {
			backup.Manifest
			Type []string `json:"type"`
		}{i.manifest, start})
	}
	m, w := i.manifest, i.cmd.OutOrStdout()
	_, err := fmt.Fprintf(w, "this machine is %s now, as of %s: %d files, %s\nnext:\n", cli.Sanitise(m.Server), m.Made.Local().Format(time.DateTime), m.Files, cli.Size(m.Bytes))
	for _, s := range start {
		if err == nil {
			_, err = fmt.Fprintln(w, "  "+cli.Sanitise(s))
		}
	}
	return err
}

// strange are addresses that the server listens on and this machine does not have.
func (i *importing) strange() (all []string) {
	own := ownAddresses()
	for _, f := range i.loaded.Interfaces {
		a, err := netip.ParseAddrPort(f.Bind)
		if err != nil || a.Addr().IsUnspecified() || a.Addr().IsLoopback() {
			continue
		}
		if !slices.ContainsFunc(own, func(o ownAddress) bool { return o.Addr == a.Addr().Unmap().WithZone("") }) {
			all = append(all, a.Addr().String())
		}
	}
	return all
}
