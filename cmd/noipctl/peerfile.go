package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/noipchat/noipchat/cmd/cli"
	"github.com/noipchat/noipchat/daemon/config"
	"github.com/noipchat/noipchat/daemon/control"
	"github.com/noipchat/noipchat/daemon/durable"
	"github.com/noipchat/noipchat/daemon/identity"
)

// peerFile is a drop-in that peer add writes and peer remove deletes.
type peerFile struct {
	main string // the configuration that it belongs to
	path string
}

func fileOf(s control.Status, peer string) peerFile {
	return peerFile{s.Config.Path, peerPath(s.Config.Path, peer)}
}

func peerPath(main, peer string) string {
	return filepath.Join(filepath.Dir(main), "conf.d", "peer-"+peer+".toml")
}

// peerHead is how the body of a file begins.
func peerHead(peer string) string {
	return fmt.Sprintf("# noipctl peer remove %[1]s deletes it, unless somebody has changed it.\n[[peer]]\nname = %[1]q\n", peer)
}

// linkFlags are what peer add says of the links.
type linkFlags struct {
	cost  int
	idle  config.Duration
	local string

	withCost, withIdle bool // the flag was given
}

func (a *app) peerAdd() *cobra.Command {
	var f linkFlags
	var yes bool
	cmd := &cobra.Command{
		Use:   "add LINE",
		Short: "add a server by its line, as a file in conf.d, and reload",
		Long: "Adds a server by the line that noipctl peer line prints there: writes conf.d/peer-NAME.toml beside\n" +
			"the configuration, and reloads. Who may not write there gets the text to put there, and exit 77.\n" +
			"A file that was changed by hand is replaced only after showing what changes.",
		Example: "noipctl peer add 'noipchat://server2@198.51.100.7:10001/?key=noip1…'\nnoipctl peer add \"$LINE\" --cost 50 --idle 0s --local 192.168.1.10",
		Args:    cli.Args("LINE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.withCost, f.withIdle = cmd.Flags().Changed("cost"), cmd.Flags().Changed("idle")
			l, err := parsePeerLine(args[0])
			if err != nil {
				return err
			}
			text, err := peerText(l, f)
			if err != nil {
				return err
			}
			s, err := a.daemon().Status(cmd.Context())
			if err != nil {
				return err
			}
			if l.Server == s.Server {
				return cli.Misuse("take the line that noipctl peer line prints on the other server", "that is the line of this server, %s", s.Server)
			}
			return a.putPeer(cmd, fileOf(s, l.Server), l, text, yes)
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&f.cost, "cost", 10, "`COST` of each link, 1 to 65000: the least is tried first")
	flags.TextVar(&f.idle, "idle", config.Duration(15*time.Second), "close a link after so much `TIME` without traffic, 0s never: the timeout of the file")
	flags.StringVar(&f.local, "local", "", "connect from this `IP` address of this machine")
	flags.BoolVar(&yes, "yes", false, "replace a file that was changed by hand without asking")
	return cmd
}

func parsePeerLine(text string) (identity.Line, error) {
	l, err := identity.ParseLine(text)
	if err != nil {
		return l, cli.Misuse("copy it whole, and quote it", "%w", err)
	}
	if l.User != "" || l.Invite != "" {
		return l, cli.Misuse("a server's line comes from: noipctl peer line", "that is an invitation for a user, who takes it with noipchat join")
	}
	return l, nil
}

// peerText is what the file says, after its first line.
func peerText(l identity.Line, f linkFlags) (string, error) {
	var b strings.Builder
	b.WriteString(peerHead(l.Server))
	if !l.Key.IsZero() {
		fmt.Fprintf(&b, "key = %q\n", l.Key)
	}
	local, err := netip.ParseAddr(f.local)
	used := f.local == ""
	switch {
	case f.local != "" && err != nil:
		return "", cli.Misuse("", "--local %.60q: want an IP address of this machine", f.local)
	case f.withCost && (f.cost < 1 || f.cost > 65000):
		return "", cli.Misuse("", "--cost %d: want 1 to 65000", f.cost)
	case f.withIdle && f.idle != 0 && f.idle < config.Duration(time.Second):
		return "", cli.Misuse("", "--idle %v: want 1s or more, or 0s for ever", f.idle)
	}
	for _, address := range l.Addresses {
		fmt.Fprintf(&b, "\n[[peer.link]]\n")
		remote, err := netip.ParseAddrPort(address)
		if err != nil {
			return "", err
		}
		if f.local != "" && remote.Addr().Is4() == local.Is4() {
			fmt.Fprintf(&b, "local = %q\n", f.local)
			used = true
		}
		fmt.Fprintf(&b, "remote = %q\n", address)
		if f.withIdle {
			fmt.Fprintf(&b, "timeout = %q\n", f.idle)
		}
		if f.withCost {
			fmt.Fprintf(&b, "cost = %d\n", f.cost)
		}
	}
	if !used {
		return "", cli.Misuse("IPv4 addresses connect to IPv4 addresses, IPv6 to IPv6", "no address in the line can be reached from --local %s", f.local)
	}
	return b.String(), nil
}

// putPeer writes the file and has the daemon take it, or leaves all as it was.
func (a *app) putPeer(cmd *cobra.Command, f peerFile, l identity.Line, body string, yes bool) error {
	text := sealed(body)
	before, err := f.look()
	if err == nil && before != "" && !isSealed(before) && before != text && !yes {
		showDiff(cmd.ErrOrStderr(), f.path, before, text)
		if err := cli.Confirm(f.path+" was changed by hand. Replace it?", "--yes"); err != nil {
			return err
		}
	}
	if err == nil {
		_, err = config.LoadWith(f.main, map[string]string{f.path: text})
	}
	if err == nil {
		err = f.put(text)
	}
	if notAllowed(err) {
		if err := a.toPaste(cmd, f.path, text); err != nil {
			return err
		}
		return &cli.Error{Code: cli.ExitRefused, Err: fmt.Errorf("not allowed to write %s", f.path),
			Hint: "run it as root; or put the text above into that file, and run: noipctl reload"}
	}
	if err != nil {
		return err
	}
	if err := a.take(cmd, f, before); err != nil {
		return err
	}
	what := "added"
	if before != "" {
		what = "changed"
	}
	if l.Key.IsZero() {
		what += " without a key, so the first one that it shows will be taken"
	}
	return a.done(cmd, l.Server, what+", in "+f.path)
}

// toPaste prints what the file would say.
func (a *app) toPaste(cmd *cobra.Command, path, text string) error {
	if a.json {
		return cli.JSON(cmd.OutOrStdout(), struct {
			File string `json:"file"`
			Text string `json:"text"`
		}{path, text})
	}
	_, err := fmt.Fprint(cmd.OutOrStdout(), text)
	return err
}

// take has the daemon take what is on disk; if that refuses, the file is again what
// it was before.
func (a *app) take(cmd *cobra.Command, f peerFile, before string) error {
	return a.reloadOr(cmd.Context(), f.path, func() error { return f.put(before) })
}

// reloadOr has the daemon take what is on disk; if that refuses, undo makes what it was
// before.
func (a *app) reloadOr(ctx context.Context, what string, undo func() error) error {
	_, err := a.daemon().Reload(ctx, 0)
	if !errors.Is(err, control.ErrConfig) {
		return err
	}
	if undo := undo(); undo != nil {
		return fmt.Errorf("%w\nand %s can't be put back: %w", err, what, undo)
	}
	a.daemon().Reload(ctx, 0) // so that it forgets the error; it has told us
	return fmt.Errorf("%w\n%s is as it was before", err, what)
}

func (a *app) peerRemove() *cobra.Command {
	return &cobra.Command{
		Use:   "remove NAME",
		Short: "remove a server that peer add has added, and reload",
		Long: "Removes a server: deletes the file in conf.d that peer add has written, unless somebody has changed\n" +
			"it, and reloads. Its key stays known. What waits for it goes on waiting.",
		Example:           "noipctl peer remove server2",
		Args:              cli.Args("NAME"),
		ValidArgsFunction: complete(false, a.peerNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.daemon().Status(cmd.Context())
			if err != nil {
				return err
			}
			peers, err := a.daemon().Peers(cmd.Context())
			if err != nil {
				return err
			}
			i := slices.IndexFunc(peers, func(p control.Peer) bool { return p.Name == args[0] })
			if i < 0 {
				return fmt.Errorf("server %s: %w", args[0], control.ErrNotFound)
			}
			f := fileOf(s, args[0])
			before, err := f.look()
			if err == nil {
				err = f.removable(peers[i], before)
			}
			if err == nil {
				_, err = config.LoadWith(f.main, map[string]string{f.path: ""})
			}
			if err == nil {
				err = f.put("")
			}
			if notAllowed(err) {
				return &cli.Error{Code: cli.ExitRefused, Err: fmt.Errorf("not allowed to delete %s", f.path),
					Hint: "run it as root; or delete that file, and run: noipctl reload"}
			}
			if err != nil {
				return err
			}
			if err := a.take(cmd, f, before); err != nil {
				return err
			}
			return a.done(cmd, args[0], "removed, with "+f.path)
		},
	}
}

// removable tells why a peer can't be removed by deleting the file, which says text.
func (f peerFile) removable(p control.Peer, text string) error {
	e := &cli.Error{Code: cli.ExitRefused}
	switch {
	case p.Origin == "":
		e.Err = fmt.Errorf("%s is in no configuration", p.Name)
		e.Hint = "to keep it out: noipctl peer distrust " + p.Name
	case text == "":
		e.Err = fmt.Errorf("%s was not added by noipctl: its [[peer]] is at %s", p.Name, p.Origin)
		e.Hint = "take it out there, and run: noipctl reload"
	case !isSealed(text):
		e.Err = fmt.Errorf("%s was changed by hand", f.path)
		e.Hint = "delete it, or what you want of it, and run: noipctl reload"
	default:
		return nil
	}
	return e
}

// seal is the first line of a file of ours: it has a hash of what follows, by which
// we see that nobody has changed it.
var seal = regexp.MustCompile(`^# Written by noipctl peer add \([0-9a-f]{16}\)\.\n`)

func sealed(body string) string {
	sum := sha256.Sum256([]byte(body))
	return fmt.Sprintf("# Written by noipctl peer add (%x).\n%s", sum[:8], body)
}

func isSealed(text string) bool {
	head := seal.FindString(text)
	return head != "" && sealed(text[len(head):]) == text
}

// look returns what the file says, "" if it isn't there, or that we may not change it.
func (f peerFile) look() (string, error) {
	dir := filepath.Dir(f.path)
	err := writable(dir)
	if errors.Is(err, fs.ErrNotExist) {
		err = writable(filepath.Dir(dir))
	}
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return string(b), err
}

// writable tells why files can't be put into a folder.
func writable(dir string) error {
	const write = 2 // as access(2) has it
	if err := syscall.Access(dir, write); err != nil {
		return &fs.PathError{Op: "writing to", Path: dir, Err: err}
	}
	return nil
}

func (f peerFile) put(text string) error { return put(f.path, text) }

// put makes a file say this, or deletes it if that is nothing. The file has the
// group of its folder, so that the daemon may read it.
func put(path, text string) error {
	dir := filepath.Dir(path)
	if text == "" {
		if err := durable.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return durable.SyncDir(dir)
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if err := errors.Join(durable.MkdirAll(dir, 0o750), groupOfFolder(dir)); err != nil {
			return err
		}
	}
	// Written under a name that nobody reads, because it gets its group only then.
	temp := filepath.Join(dir, "."+filepath.Base(path)+".new")
	err := durable.WriteFile(temp, []byte(text), 0o640)
	if err == nil {
		err = groupOfFolder(temp)
	}
	if err == nil {
		err = durable.Rename(temp, path)
	}
	if err != nil {
		os.Remove(temp)
	}
	return err
}

// groupOfFolder gives a file the group of the folder that it is in.
func groupOfFolder(path string) error {
	group := func(path string) (int, error) {
		info, err := os.Stat(path)
		if err != nil {
			return 0, err
		}
		return int(info.Sys().(*syscall.Stat_t).Gid), nil
	}
	want, err := group(filepath.Dir(path))
	if err != nil {
		return err
	}
	if have, err := group(path); err != nil || have == want {
		return err
	}
	return os.Chown(path, -1, want)
}

func notAllowed(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS)
}

// showDiff shows the lines that go and those that come, and those beside them.
func showDiff(w io.Writer, path, before, after string) {
	fmt.Fprintln(w, path+":")
	old, now := strings.Split(strings.TrimSuffix(before, "\n"), "\n"), strings.Split(strings.TrimSuffix(after, "\n"), "\n")
	changes := diff(old, now)
	for i, c := range changes {
		near := func(c string) bool { return c[0] != ' ' }
		if slices.ContainsFunc(changes[max(0, i-2):min(len(changes), i+3)], near) {
			fmt.Fprintln(w, cli.Sanitise(c))
		}
	}
}

// diff tells how lines become others: "- " goes, "+ " comes, "  " stays; as many stay as
// can.
func diff(old, now []string) (all []string) {
	same := 0
	for same < min(len(old), len(now)) && old[same] == now[same] {
		all = append(all, "  "+old[same])
		same++
	}
	old, now = old[same:], now[same:]
	var end []string
	for len(old) > 0 && len(now) > 0 && old[len(old)-1] == now[len(now)-1] {
		end = append(end, "  "+old[len(old)-1])
		old, now = old[:len(old)-1], now[:len(now)-1]
	}
	slices.Reverse(end)
	if int64(len(old))*int64(len(now)) > 1<<22 { // nobody reads that
		return append(append(all, fmt.Sprintf("- %d lines", len(old)), fmt.Sprintf("+ %d lines", len(now))), end...)
	}
	longest := make([][]int, len(old)+1) // of what stays, from a line of each on
	for i := range longest {
		longest[i] = make([]int, len(now)+1)
	}
	for i, a := range slices.Backward(old) {
		for j, b := range slices.Backward(now) {
			if longest[i][j] = max(longest[i+1][j], longest[i][j+1]); a == b {
				longest[i][j] = longest[i+1][j+1] + 1
			}
		}
	}
	i, j := 0, 0
	for i < len(old) && j < len(now) {
		switch {
		case old[i] == now[j]:
			all = append(all, "  "+old[i])
			i, j = i+1, j+1
		case longest[i+1][j] >= longest[i][j+1]:
			all = append(all, "- "+old[i])
			i++
		default:
			all = append(all, "+ "+now[j])
			j++
		}
	}
	for _, line := range old[i:] {
		all = append(all, "- "+line)
	}
	for _, line := range now[j:] {
		all = append(all, "+ "+line)
	}
	return append(all, end...)
}
