package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/noipchat/noipchat/cmd/cli"
	"github.com/noipchat/noipchat/daemon/config"
	"github.com/noipchat/noipchat/daemon/control"
	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
)

const (
	defaultConfig = "/etc/noipchat/noipchat.toml"
	logFile       = "/var/log/noipchat/noipchat.log" // which logrotate knows
	defaultPort   = "10001"
)

// guide leads through setting up a server. Nothing is written before the last
// question is answered.
type guide struct {
	*app
	cmd  *cobra.Command
	talk io.Writer // for people

	path, from                        string
	name, port, register, log, closed string // closed: what to do about the firewall
	user                              string
	listen, public, peers             []string
	yes, plain, noStart               bool
	stdin, invite                     bool

	asker    asker
	own      []ownAddress
	setup    *setup
	password string
	walls    []firewall // that let nobody in at some port
}

func (a *app) guideCommand() *cobra.Command {
	g := &guide{app: a}
	cmd := &cobra.Command{
		Use:   "guide",
		Short: "set this server up, or change how it is set up",
		Long: "Asks what a server needs to know, shows the file that it makes of the answers and what will\n" +
			"happen, and then does it: writes the configuration, starts the server or has it take the change,\n" +
			"and checks. Run again it changes what is there, and leaves alone what it doesn't ask for. Each\n" +
			"question has a flag, and is not asked if that is given; --yes takes what is proposed for the rest.\n" +
			"Given up at any question, it leaves everything as it was.",
		Example: "noipctl guide\n" +
			"noipctl guide --yes --name server1 --public 203.0.113.5:10001 --register invite --user alice --invite\n" +
			"noipctl guide --from /opt/NoIPChat/Config.xml",
		Args: cli.Args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			g.cmd = cmd
			return g.run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVar(&g.name, "name", "", "this server's `NAME`: its users are user@NAME")
	f.StringArrayVar(&g.listen, "listen", nil, "listen on this `ADDRESS` of this machine, with port; may be given again")
	f.StringVar(&g.port, "port", defaultPort, "`PORT` of the addresses that are proposed, and of all that are there")
	f.StringArrayVar(&g.public, "public", nil, "others reach the server by this `ADDRESS`, with port; may be given again")
	f.StringVar(&g.register, "register", "", "who may make an account: `MODE` closed, invite or open")
	f.StringVar(&g.log, "log", "", "log to `WHERE`: journal, stderr, or a file below /var/log/noipchat")
	f.StringVar(&g.user, "user", "", "add the first user, `NAME`; \"\" for none")
	f.BoolVar(&g.invite, "invite", false, "the user chooses the password, by an invitation")
	passwordFlag(cmd, &g.stdin)
	f.StringArrayVar(&g.peers, "peer", nil, "add another server by its `LINE`; may be given again")
	f.StringVar(&g.closed, "firewall", "show", "open the ports in this machine's firewall (run), or only say how (show): `WHAT`")
	f.StringVar(&g.from, "from", "", "take the answers from `FILE`, the Config.xml of the older .NET server, and Servers.json beside it")
	f.StringVar(&g.path, "config", defaultConfig, "the configuration is `FILE`")
	f.BoolVar(&g.noStart, "no-start", false, "write the configuration, and leave the server alone")
	f.BoolVar(&g.plain, "plain", false, "ask line by line, for screen readers")
	f.BoolVar(&g.yes, "yes", false, "ask nothing: take what is proposed, and do it")
	return cmd
}

func (g *guide) run(ctx context.Context) error {
	g.talk = os.Stdout
	if g.json {
		if !g.yes {
			return cli.Misuse("add --yes", "questions are no JSON")
		}
		g.talk = io.Discard
	}
	if err := g.prepare(); err != nil {
		return err
	}
	for {
		if err := g.questions(ctx); err != nil {
			return err
		}
		files, c, err := g.setup.files()
		var why strings.Builder
		if err != nil && !g.yes { // two answers that don't go together
			cli.Report(&why, "noipctl", explain(err))
			fmt.Fprint(os.Stderr, why.String())
		}
		if f, ok := g.asker.(*form); ok {
			f.why = why.String() // what stands on the other screen it hides
		}
		if why.Len() > 0 {
			continue
		}
		if err != nil {
			return err
		}
		g.plan(ctx, files, c)
		what, err := g.confirm()
		if err != nil {
			return err
		}
		if what == "do" {
			return g.do(ctx, files, c)
		}
	}
}

// prepare finds out what is there, before anything is asked.
func (g *guide) prepare() (err error) {
	path, err := filepath.Abs(g.path)
	if err != nil {
		return err
	}
	g.path = path
	if _, err := os.Stat(filepath.Dir(g.path)); errors.Is(err, fs.ErrNotExist) {
		return &cli.Error{Code: cli.ExitConfig, Err: fmt.Errorf("there is no folder %s", filepath.Dir(g.path)),
			Hint: "the package noipchat makes it; or: --config FILE"}
	}
	if g.setup, err = newSetup(g.path); err != nil {
		return err
	}
	if g.from != "" {
		if err := g.setup.takeOlder(g.from); err != nil {
			return err
		}
	}
	for _, line := range g.setup.leftOut {
		fmt.Fprintln(os.Stderr, "noipctl: "+cli.Sanitise(line))
	}
	if g.stdin {
		if g.password, err = (cli.Password{Prompt: "password", Stdin: true, New: true}).Read(); err != nil {
			return err
		}
	}
	g.own = ownAddresses()
	g.asker = newAsker(g.plain)
	if !g.yes {
		intro := fmt.Sprintf("This sets up %s.\nWhat is proposed is good for most; Ctrl-C leaves everything as it is.\n", g.path)
		if err := writable(filepath.Dir(g.path)); notAllowed(err) {
			intro += "You may not write there, so what to write will be shown only. (Root may.)\n"
		}
		fmt.Fprintln(g.talk, intro)
		if f, ok := g.asker.(*form); ok {
			f.intro = intro + cli.Sanitise(strings.Join(g.setup.leftOut, "; ")) // the form hides what stands on the other screen
		}
	}
	return nil
}

// plan shows what is to be written, and what will happen.
func (g *guide) plan(ctx context.Context, files map[string]string, c *config.Config) {
	fmt.Fprintln(g.talk)
	g.setup.show(g.talk, files)
	fmt.Fprintln(g.talk, "\nThis will happen:")
	say := func(format string, args ...any) {
		fmt.Fprintln(g.talk, "  - "+cli.Sanitise(fmt.Sprintf(format, args...)))
	}
	if _, changed := files[g.path]; changed && g.setup.have != nil {
		say("the configuration that is there is kept beside it")
	}
	for _, path := range g.setup.sortedFiles(files) {
		say("%s is written", path)
	}
	if len(files) == 0 {
		say("no file changes")
	}
	switch {
	case g.noStart:
	case g.cold(c) && !onSystemd(g.path):
		say("the server takes it when it is started again")
	case g.cold(c), g.setup.have != nil && g.low(c, asOpen(g.setup.have)):
		say("the server restarts, if it runs")
	case onSystemd(g.path):
		say("the server is started, or takes the change while it runs")
	default:
		say("if the server runs, it takes the change")
	}
	if g.user != "" && !g.noStart && (onSystemd(g.path) || g.live(ctx) != nil && !g.cold(c)) {
		say("%s@%s is %s", g.user, g.setup.name, map[bool]string{true: "invited", false: "added"}[g.invite])
	}
	for _, f := range g.walls {
		if g.closed == "run" {
			say("%s is opened", f.name)
		}
	}
	if g.yes {
		fmt.Fprintln(g.talk)
	}
}

// live is the server that runs with this configuration; nil: none.
func (g *guide) live(ctx context.Context) *control.Status {
	if s, err := g.daemon().Status(ctx); err == nil && s.Config.Path == g.path {
		return &s
	}
	return nil
}

// cold tells whether the running server can't take the change.
func (g *guide) cold(c *config.Config) bool {
	return g.setup.have != nil && slices.ContainsFunc(config.Diff(g.setup.have, c), config.Change.Cold)
}

// asOpen are the interfaces of a configuration, as if all were open.
func asOpen(c *config.Config) (all []control.Interface) {
	for _, i := range c.Interfaces {
		all = append(all, control.Interface{Kind: i.Kind, Bind: i.Bind, State: control.Listening})
	}
	return all
}

// low tells whether a port below 1024 is added, which only systemd can open.
func (g *guide) low(c *config.Config, open []control.Interface) bool {
	return onSystemd(g.path) && slices.ContainsFunc(c.Interfaces, func(i config.Interface) bool {
		a, err := netip.ParseAddrPort(i.Bind)
		return err == nil && a.Port() < 1024 && !slices.ContainsFunc(open, func(s control.Interface) bool { return s.Bind == i.Bind && s.State == control.Listening })
	})
}

func (g *guide) confirm() (what string, err error) {
	if g.yes {
		return "do", nil
	}
	// By a line, and on every terminal: a form has the screen for itself, and what is asked about stands on this one.
	q := question{flag: "--yes", title: "Shall it?", options: []option{{"do", "yes"}, {"change", "no: ask me again"}, {"leave", "no: leave everything as it is"}}, answer: []string{"do"}}
	words, err := byLine{os.Stdin, os.Stderr}.ask(q)
	if err != nil {
		return "", err
	}
	if len(words) != 1 || words[0] == "leave" {
		return "", &cli.Error{Code: cli.ExitRefused, Err: errors.New("not confirmed; nothing was done")}
	}
	return words[0], nil
}

// outcome is what the guide has done, for scripts.
type outcome struct {
	Server      string                `json:"server"`
	Config      string                `json:"config"`
	Written     control.List[string]  `json:"written"`
	Running     bool                  `json:"running"`
	Line        string                `json:"line,omitempty"`
	Fingerprint string                `json:"fingerprint,omitempty"`
	Invitation  string                `json:"invitation,omitempty"`
	User        string                `json:"user,omitempty"`    // what to type to make the user, if there is no server yet that could
	Firewall    control.List[string]  `json:"firewall"`          // what to type
	Lasting     control.List[string]  `json:"lasting,omitempty"` // what was done to it and is gone after a boot, and how it would stay
	Findings    control.List[finding] `json:"findings"`
}

func (g *guide) do(ctx context.Context, files map[string]string, c *config.Config) error {
	o := outcome{Server: g.setup.name, Config: g.path, Written: g.setup.sortedFiles(files)}
	undo, err := g.write(files)
	if err != nil {
		return err
	}
	s, err := g.start(ctx, c, undo)
	if g.setup.kept != "" {
		fmt.Fprintln(g.talk, "The configuration before is "+g.setup.kept)
	}
	if err != nil {
		return err
	}
	unopened := g.open(ctx, c, &o) // what follows doesn't need it, so it is said last
	switch {
	case s != nil:
		o.Running, o.Fingerprint = true, s.Fingerprint
		if g.user != "" {
			if o.Invitation, err = g.enrol(ctx); err != nil {
				return errors.Join(err, unopened)
			}
		}
		o.Findings = g.check(ctx, g.path)
		o.Line, _ = lineOf(*s) // without an address there is none, and check has said so
	case g.user != "":
		o.User = "noipctl user " + map[bool]string{true: "invite ", false: "add "}[g.invite] + g.user
	}
	g.end(o)
	if g.json {
		err = cli.JSON(g.cmd.OutOrStdout(), o)
	}
	return errors.Join(err, unopened)
}

// open opens the firewall, or notes what to type.
func (g *guide) open(ctx context.Context, c *config.Config, o *outcome) (err error) {
	for _, f := range g.walls {
		for _, port := range ports(c.Interfaces) {
			if !f.closed(port) {
				continue
			}
			if g.closed == "run" {
				failed := f.letIn(ctx, port)
				if failed == nil && f.lasts != "" {
					o.Lasting = append(o.Lasting, f.typed(port))
				}
				if failed == nil {
					continue
				}
				err = errors.Join(err, &cli.Error{Code: cli.ExitFault, Err: fmt.Errorf("the server is set up, but its firewall is not: %w", failed), Hint: "open it by hand: " + f.typed(port)})
			}
			o.Firewall = append(o.Firewall, f.typed(port))
		}
	}
	return err
}

// write puts the files there, the one before aside; or says what to put there, to who may not.
func (g *guide) write(files map[string]string) (undo func() error, err error) {
	if err := writable(filepath.Dir(g.path)); notAllowed(err) {
		for _, path := range g.setup.sortedFiles(files) {
			if err := g.toPaste(g.cmd, path, files[path]); err != nil {
				return nil, err
			}
		}
		return nil, &cli.Error{Code: cli.ExitRefused, Err: fmt.Errorf("not allowed to write %s", g.path),
			Hint: "run it as root; or put the text above there"}
	}
	return g.setup.write(files)
}

// start has the server run with what was written; nil if it is not for us to start. If it
// runs and refuses the change, all is as before.
func (g *guide) start(ctx context.Context, c *config.Config, undo func() error) (*control.Status, error) {
	if g.noStart {
		return nil, nil
	}
	s := g.live(ctx)
	takes := s != nil && !g.cold(c) && !g.low(c, s.Interfaces)
	if takes {
		if err := g.reloadOr(ctx, "the configuration", undo); err != nil {
			return nil, err
		}
	}
	if onSystemd(g.path) { // its units are made of what the server has not refused
		if _, err := run(ctx, "systemctl", "daemon-reload"); err != nil {
			return nil, err
		}
	}
	switch {
	case takes:
	case onSystemd(g.path):
		do := "systemctl start noipchat.socket noipchat.service"
		if s != nil {
			do = again
		}
		fmt.Fprintln(g.talk, do)
		if _, err := run(ctx, "sh", "-c", do); err != nil {
			showFindings(g.talk, g.check(ctx, g.path))
			return nil, &cli.Error{Code: cli.ExitUnreachable, Err: fmt.Errorf("the configuration is written, but the server does not start: %w", err), Hint: "noipctl check; journalctl -u noipchat"}
		}
	default:
		return nil, nil
	}
	return g.wait(ctx)
}

// wait waits until the server answers.
func (g *guide) wait(ctx context.Context) (*control.Status, error) {
	if g.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, g.timeout)
		defer cancel()
	}
	for {
		s, err := g.daemon().Status(ctx)
		if err == nil || !errors.Is(err, control.ErrUnreachable) {
			return &s, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// enrol adds or invites the user.
func (g *guide) enrol(ctx context.Context) (invitation string, err error) {
	if g.invite {
		i, err := g.daemon().Invite(ctx, control.InviteRequest{User: g.user, ValidSeconds: int64(7 * day / time.Second), Uses: 1})
		return i.Line, err
	}
	_, err = g.daemon().AddUser(ctx, g.user, g.password)
	var no *message.Refusal
	if errors.As(err, &no) && no.Code == message.CodeExists {
		fmt.Fprintf(g.talk, "%s is a user already, and keeps the password.\n", g.user)
		return "", nil
	}
	return "", err
}

// end is the last screen: whether all is well, and what to type elsewhere.
func (g *guide) end(o outcome) {
	switch {
	case o.Running:
		fmt.Fprintln(g.talk, "\nnoipctl check:")
		showFindings(g.talk, o.Findings)
	case !g.noStart:
		fmt.Fprintf(g.talk, "Written. To start it, and to see whether all is well:\n  noipchatd --config %s\n  noipctl check\n", g.path)
	}
	if o.User != "" {
		fmt.Fprintf(g.talk, "\nThe user is not made yet. When the server runs:\n  %s\n", o.User)
	}
	for _, do := range o.Firewall {
		fmt.Fprintln(g.talk, "\nTo open the firewall:\n  "+do)
	}
	for _, done := range o.Lasting {
		fmt.Fprintln(g.talk, "\nThe firewall was opened by:\n  "+done)
	}
	if o.Line == "" {
		return
	}
	fmt.Fprintf(g.talk, "\n%s runs. This is its line, for other servers and for users (noipctl peer line):\n\n", o.Server)
	drawQR(g.talk, o.Line, cli.Colours())
	fmt.Fprintf(g.talk, "\n%s\n\nOn the machine of each user, with the package noipchat-client:\n", o.Line)
	switch l, _ := identity.ParseLine(o.Line); {
	case o.Invitation != "":
		fmt.Fprintf(g.talk, "  noipchat join '%s'\n", o.Invitation)
	case g.user != "":
		fmt.Fprintf(g.talk, "  noipchat login %s@%s --server %s --key %s\n", g.user, o.Server, l.Addresses[0], l.Key)
	default:
		fmt.Fprintf(g.talk, "  noipchat login NAME@%s --server %s --key %s\nwhen you have made the user: noipctl user add NAME\n", o.Server, l.Addresses[0], l.Key)
	}
	fmt.Fprintf(g.talk, "On another server, to join the two:\n  noipctl peer add '%s'\n", o.Line)
}
