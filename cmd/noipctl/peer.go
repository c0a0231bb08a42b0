package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/noipchat/noipchat/cmd/cli"
	"github.com/noipchat/noipchat/daemon/control"
	"github.com/noipchat/noipchat/daemon/identity"
)

func (a *app) peerCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "peer",
		Short: "show this server's line; add, list, remove, trust and distrust other servers",
		Long: "Other servers. Two of them are joined by giving each the line of the other: what\n" +
			"peer line prints there is what peer add takes here.",
		Example: `noipctl peer line
noipctl peer add 'noipchat://server2@198.51.100.7:10001/?key=noip1…'
noipctl peer list`,
	}
	cmd.AddCommand(a.peerLine(), a.peerAdd(), a.peerList(), a.peerShow(), a.peerRemove(), a.peerTrust(), a.peerDistrust())
	return cmd
}

func (a *app) peerLine() *cobra.Command {
	var qr bool
	cmd := &cobra.Command{
		Use:   "line",
		Short: "print the line that tells where this server is, and its key",
		Long: "Prints the line that tells others where this server is, and its key: for peer add on\n" +
			"another server, and for a client's first login. Nothing in it is secret.",
		Example: "noipctl peer line\nnoipctl peer line --qr",
		Args:    cli.Args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if qr && a.json {
				return cli.Misuse("use one of them", "a picture is no JSON")
			}
			s, err := a.daemon().Status(cmd.Context())
			if err != nil {
				return err
			}
			line, err := lineOf(s)
			if err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			if a.json {
				return cli.JSON(w, struct {
					Server      string `json:"server"`
					Line        string `json:"line"`
					Fingerprint string `json:"fingerprint"`
				}{s.Server, line, s.Fingerprint})
			}
			if qr {
				if err := drawQR(w, line, cli.Colours()); err != nil {
					return err
				}
			}
			_, err = fmt.Fprintln(w, line)
			return err
		},
	}
	cmd.Flags().BoolVar(&qr, "qr", false, "draw it as a QR code too")
	return cmd
}

// lineOf makes a server's line of the addresses that it tells others.
func lineOf(s control.Status) (string, error) {
	key, err := identity.ParsePublicKey(s.Key)
	if err != nil {
		return "", fmt.Errorf("%w: %w", control.ErrProtocol, err)
	}
	l := identity.Line{Server: s.Server, Key: key}
	for _, i := range s.Interfaces {
		for _, address := range i.Public {
			if i.State == control.Listening && !slices.Contains(l.Addresses, address) && len(l.Addresses) < identity.MaxAddresses {
				l.Addresses = append(l.Addresses, address)
			}
		}
	}
	if len(l.Addresses) == 0 {
		return "", &cli.Error{
			Code: cli.ExitConfig,
			Err:  fmt.Errorf("no interface of %s has an address that others could use", s.Server),
			Hint: `in an [[interface]] of ` + s.Config.Path + `, write: public = ["203.0.113.5:10001"]`,
		}
	}
	return l.String(), nil
}

func (a *app) peerList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "list other servers, those that wait to be trusted last",
		Long: "Lists the servers that the configuration has, those whose keys are kept, and at the end those\n" +
			"that dialled in and wait to be trusted. STANDING is that of the key: pinned by the configuration,\n" +
			"confirmed by an admin, first seen, new if none was seen, waiting, or distrusted. WAITING is what\n" +
			"waits here for the server.",
		Example: "noipctl peer list\nnoipctl peer list --json | jq -r 'select(.state != \"up\").name'",
		Args:    cli.Args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			peers, err := a.daemon().Peers(cmd.Context())
			if err != nil {
				return err
			}
			if a.json {
				return lines(cmd, peers)
			}
			t := new(cli.Table)
			t.Row("PEER", "STANDING", "STATE", "SINCE", "LINK", "WAITING", "FINGERPRINT", "ERROR")
			for _, p := range peers {
				since := ""
				if !p.Since.IsZero() {
					since = cli.Ago(p.Since)
				}
				t.Row(p.Name, p.Standing, p.State, since, strings.TrimSpace(p.Kind+" "+p.Remote), fmt.Sprint(p.Messages), p.Fingerprint, trouble(p))
			}
			return t.Write(cmd.OutOrStdout(), "no other servers")
		},
	}
}

// trouble is what an admin should know of a peer.
func trouble(p control.Peer) string {
	if p.RefusedFingerprint != "" {
		return "another key was refused: " + p.RefusedFingerprint
	}
	return p.Error
}

func (a *app) peerShow() *cobra.Command {
	return &cobra.Command{
		Use:               "show NAME",
		Short:             "show all that is known of a server",
		Example:           "noipctl peer show server2",
		Args:              cli.Args("NAME"),
		ValidArgsFunction: complete(false, a.peerNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			peers, err := a.daemon().Peers(cmd.Context())
			if err != nil {
				return err
			}
			peers = slices.DeleteFunc(peers, func(p control.Peer) bool { return p.Name != args[0] && p.Fingerprint != args[0] })
			if len(peers) == 0 {
				return fmt.Errorf("server %s: %w", args[0], control.ErrNotFound)
			}
			if a.json {
				return lines(cmd, peers)
			}
			for i, p := range peers {
				if i > 0 {
					fmt.Fprintln(cmd.OutOrStdout())
				}
				if err := peerTable(p).Write(cmd.OutOrStdout(), ""); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func peerTable(p control.Peer) *cli.Table {
	t := new(cli.Table)
	t.Row("peer", p.Name)
	t.Row("key", p.Key)
	if key, err := identity.ParsePublicKey(p.Key); err == nil {
		t.Row("fingerprint", key.Fingerprint()+", "+key.Words())
	}
	standing := p.Standing
	if !p.Trusted.IsZero() {
		standing += " since " + when(p.Trusted)
	}
	t.Row("standing", standing)
	if p.RefusedFingerprint != "" {
		t.Row("refused", fmt.Sprintf("another key, %s, on %s: ask that server's admin; if it is the new one: noipctl peer trust %[1]s",
			p.RefusedFingerprint, when(p.RefusedAt)))
	}
	t.Row("configured", p.Origin)
	for _, k := range p.Links {
		t.Row("way", way(k))
	}
	if len(p.Reaches) > 0 {
		t.Row("reaches", strings.Join(p.Reaches, ", "))
	}
	state := p.State
	if p.Remote != "" || p.Kind != "" {
		state += fmt.Sprintf(" by %s %s, cost %d", p.Kind, p.Remote, p.Cost)
	}
	if !p.Since.IsZero() {
		state += " since " + when(p.Since)
	}
	if p.RTTSeconds > 0 {
		state += fmt.Sprintf(", there and back in %v", time.Duration(p.RTTSeconds*float64(time.Second)).Round(time.Microsecond))
	}
	t.Row("link", state)
	if p.Error != "" {
		t.Row("error", p.Error)
	}
	if !p.Next.IsZero() {
		t.Row("next attempt", when(p.Next))
	}
	t.Row("traffic", fmt.Sprintf("%s in, %s out; %d messages sent, %d received", cli.Size(p.BytesIn), cli.Size(p.BytesOut), p.Sent, p.Received))
	waiting := fmt.Sprintf("%d messages, %s", p.Messages, cli.Size(p.Bytes))
	if p.Messages > 0 {
		waiting += ", the oldest for " + seconds(p.OldestSeconds)
	}
	t.Row("waiting", waiting)
	return t
}

// way is a link of the configuration on one line.
func way(k control.Link) string {
	s := k.Kind + " " + k.Remote
	if len(k.Command) > 0 {
		s = k.Kind + " " + strings.Join(k.Command, " ")
	}
	if k.Local != "" {
		s += " from " + k.Local
	}
	if k.Line != "" {
		s += " (" + k.Line + ")"
	}
	idle := "kept for ever"
	if k.TimeoutSeconds > 0 {
		idle = "closed after " + time.Duration(k.TimeoutSeconds*float64(time.Second)).String()
	}
	return fmt.Sprintf("%s, cost %d, %s", s, k.Cost, idle)
}

func (a *app) peerTrust() *cobra.Command {
	return &cobra.Command{
		Use:   "trust NAME|FINGERPRINT",
		Short: "confirm a server's key: one that waits, was distrusted, or is new",
		Long: "Confirms a server's key, and lets the server in: one that waits, was seen first, or was\n" +
			"distrusted. Compare the fingerprint with what peer line --json says there. Where a server has shown\n" +
			"more than one key, say which by its fingerprint; it takes the place of the one that was known.\n" +
			"If there is a link to dial it by, it is dialled at once.",
		Example:           "noipctl peer trust server2\nnoipctl peer trust 3f2a-91c0-77de-0b1c",
		Args:              cli.Args("NAME|FINGERPRINT"),
		ValidArgsFunction: complete(false, a.peerNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := a.daemon().TrustPeer(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if err := a.decided(cmd, p); err != nil || a.json || p.State == control.Up {
				return err
			}
			if len(p.Links) > 0 {
				_, err = fmt.Fprintln(cmd.OutOrStdout(), "it is dialled now")
				return err
			}
			status, err := a.daemon().Status(cmd.Context())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "it dials again by itself, within two minutes; at once with:\n\tnoipctl queue retry %s   # on %s\n", cli.Sanitise(status.Server), cli.Sanitise(p.Name))
			return err
		},
	}
}

func (a *app) peerDistrust() *cobra.Command {
	return &cobra.Command{
		Use:               "distrust NAME",
		Short:             "end the link to a server, and refuse its name and its key from now on",
		Long:              "Ends the link to a server, and refuses its name and its key, until peer trust. What waits\nfor it goes on waiting. This goes before what the configuration says.",
		Example:           "noipctl peer distrust server2",
		Args:              cli.Args("NAME"),
		ValidArgsFunction: complete(false, a.peerNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := a.daemon().DistrustPeer(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.decided(cmd, p)
		},
	}
}

// decided says how a server stands now.
func (a *app) decided(cmd *cobra.Command, p control.Peer) error {
	if a.json {
		return cli.JSON(cmd.OutOrStdout(), p)
	}
	what := p.Standing
	if p.Fingerprint != "" {
		what += ", " + p.Fingerprint
	}
	return a.done(cmd, p.Name, what)
}

func (a *app) routeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "route",
		Short:   "list the ways to other servers",
		Example: "noipctl route list",
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "list",
		Short: "list which peers lead to which servers",
		Long: "Lists which peers lead to which servers, the best way first. A route is learnt from what servers\n" +
			"announce, or static: the configuration says what a peer reaches. VERIFIED is yes if the key that\n" +
			"was announced is the one that is known here.",
		Example: "noipctl route list",
		Args:    cli.Args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			routes, err := a.daemon().Routes(cmd.Context())
			if err != nil {
				return err
			}
			if a.json {
				return lines(cmd, routes)
			}
			t := new(cli.Table)
			t.Row("SERVER", "VIA", "METRIC", "FROM", "AGE", "VERIFIED", "FINGERPRINT")
			for _, r := range routes {
				from, age := "learnt", seconds(r.AgeSeconds)
				if r.Static {
					from, age = "static", ""
				}
				if r.Doubted {
					from += ", doubted"
				}
				t.Row(r.Server, r.Via, fmt.Sprint(r.Metric), from, age, yesNo(r.Verified), r.Fingerprint)
			}
			return t.Write(cmd.OutOrStdout(), "no routes")
		},
	})
	return cmd
}
