package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/noipchat/noipchat/cmd/cli"
	"github.com/noipchat/noipchat/daemon/client"
	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
)

func (a *app) serverCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "server",
		Short:   "list and change where your home server is, and its key",
		Example: "noipchat server add '[2001:db8::1]:10001'\nnoipchat server import 'noipchat://server1@203.0.113.5:10001/?key=noip1…'",
	}
	cmd.AddCommand(a.serverList(), a.serverAdd(), a.serverImport())
	return cmd
}

// account changes the profile's account.
func (a *app) account(change func(store *client.Store, account *client.Account) error) error {
	store, err := a.open()
	if err != nil {
		return err
	}
	defer store.Close()
	account, known, err := store.Account()
	if err != nil || !known {
		return errors.Join(err, noAccount(known))
	}
	return change(store, &account)
}

func (a *app) serverList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "list the addresses of your home server, in the order in which they are tried",
		Example: "noipchat server list",
		Args:    cli.Args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.account(func(store *client.Store, account *client.Account) error {
				home := account.Address.Server()
				keys, err := store.ServerKeys()
				if err != nil {
					return err
				}
				key, err := account.HomeKey()
				if err != nil {
					return err
				}
				if a.json {
					return cli.JSON(cmd.OutOrStdout(), struct {
						Server      string   `json:"server"`
						Key         string   `json:"key"`
						Fingerprint string   `json:"fingerprint"`
						Trust       string   `json:"trust"`
						Addresses   []string `json:"addresses"`
					}{home, account.ServerKey, key.Fingerprint(), keys[home].Trust, account.Servers})
				}
				var t cli.Table
				t.Row("SERVER", "ADDRESS", "KEY", "TRUST")
				for _, s := range account.Servers {
					t.Row(home, s, key.Fingerprint(), keys[home].Trust)
				}
				return t.Write(cmd.OutOrStdout(), "no address is known")
			})
		},
	}
}

func (a *app) serverAdd() *cobra.Command {
	return &cobra.Command{
		Use: "add ADDRESS…", Short: "add addresses of your home server, which are tried first",
		Long: `Adds addresses of your home server, which are tried first:

  203.0.113.5:10001         an IP address and a port; IPv6 as [2001:db8::1]:10001
  unix:PATH                 a Unix socket on this machine
  exec:COMMAND              a program whose input and output lead there, ssh for one; words
                            between spaces, '…' and "…" keep spaces; no shell sees it

After the kind may stand what is known of the line, between commas: rate=1200 (bits per
second; a byte counts as ten), latency=2.5s (of one direction), metered (every byte
costs), exclusive (one side at a time may speak). On such a line noipchat says nothing
unasked, waits as long as it takes, and sends large messages in pieces.`,
		Example: "noipchat server add 198.51.100.7:10001\n" +
			"noipchat server add 'exec:ssh -T noipchat@server1 noipchatd --stdio'\n" +
			"noipchat server add 'exec,rate=1200,latency=2.5s,exclusive:radio-line /dev/ttyUSB0'",
		Args: cli.Args("ADDRESS…"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkServers(args); err != nil {
				return err
			}
			return a.account(func(store *client.Store, account *client.Account) error {
				return a.setServers(cmd, store, account, args)
			})
		},
	}
}

func (a *app) setServers(cmd *cobra.Command, store *client.Store, account *client.Account, first []string) error {
	old := account.Servers
	account.Servers = slices.Clone(first)
	for _, s := range old {
		if !slices.Contains(account.Servers, s) {
			account.Servers = append(account.Servers, s)
		}
	}
	if err := store.SetAccount(*account); err != nil {
		return err
	}
	if a.json {
		return cli.JSON(cmd.OutOrStdout(), struct {
			Addresses []string `json:"addresses"`
		}{account.Servers})
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s has %d addresses\n", account.Address.Server(), len(account.Servers))
	return err
}

func (a *app) serverImport() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use: "import LINE", Short: "take your home server's addresses and key from a line of its admin's",
		Long: "Takes your home server's addresses and key from a line of its admin's; or its addresses from the\n" +
			"Servers.json of the older client, in the place of LINE.",
		Example: "noipchat server import 'noipchat://server1@203.0.113.5:10001/?key=noip1…'\nnoipchat server import ./Servers.json",
		Args:    cli.Args("LINE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if strings.HasSuffix(args[0], ".json") {
				return a.importOlder(cmd, args[0])
			}
			l, err := identity.ParseLine(args[0])
			if err != nil {
				return cli.Misuse("copy it whole, and quote it", "%w", err)
			}
			return a.account(func(store *client.Store, account *client.Account) error {
				home := account.Address.Server()
				if l.Server != home {
					return message.Refuse(message.CodeInvalid, "the line is of %s, and your home is %s", l.Server, home)
				}
				if !l.Key.IsZero() {
					if changed := l.Key.String() != account.ServerKey; changed && !yes {
						question := fmt.Sprintf("the line has another key of %s than this profile: %s. Take it?", home, l.Key.Fingerprint())
						if err := cli.Confirm(question, "--yes"); err != nil {
							return err
						}
					}
					account.ServerKey = l.Key.String()
					if err := store.SetServerKey(home, account.ServerKey, identity.Pinned.String()); err != nil {
						return err
					}
				}
				return a.setServers(cmd, store, account, l.Addresses)
			})
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "take another key than the one that is known")
	return cmd
}

// importOlder adds the addresses that the older client's list has of the home server.
func (a *app) importOlder(cmd *cobra.Command, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 1<<20)) // a longer one is cut, and no JSON any more
	if err != nil {
		return err
	}
	return a.account(func(store *client.Store, account *client.Account) error {
		addresses, err := olderAddresses(text, account.Address.Server())
		if err != nil {
			return cli.Misuse("it is the list of the older client: [{\"Name\": …, \"IP\": …, \"Port\": …}]", "%s: %w", path, err)
		}
		return a.setServers(cmd, store, account, addresses)
	})
}

// olderAddresses are those of a server in the older client's Servers.json.
func olderAddresses(text []byte, server string) (all []string, err error) {
	var list []struct {
		Name, IP string
		Port     uint16
	}
	if err := json.Unmarshal(bytes.TrimPrefix(text, []byte("\ufeff")), &list); err != nil { // .NET writes a byte order mark
		return nil, err
	}
	for _, s := range list {
		if strings.ToLower(strings.TrimSpace(s.Name)) != server {
			continue
		}
		ip, err := netip.ParseAddr(strings.TrimSpace(s.IP))
		if err != nil || s.Port == 0 || ip.Zone() != "" {
			return nil, fmt.Errorf("%s: %.60q with port %d: want an IP address and a port", server, s.IP, s.Port)
		}
		if address := netip.AddrPortFrom(ip.Unmap(), s.Port).String(); !slices.Contains(all, address) {
			all = append(all, address)
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("it has no server %s", server)
	}
	return all, nil
}
