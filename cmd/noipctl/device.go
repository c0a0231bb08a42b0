package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/noipchat/noipchat/cmd/cli"
	"github.com/noipchat/noipchat/daemon/control"
	"github.com/noipchat/noipchat/daemon/message"
)

func (a *app) deviceCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "device",
		Short:   "list and remove users' devices",
		Long:    "Installations of the client. Each has a key and a queue of its own; what its user sends and gets reaches all of them.",
		Example: "noipctl device list alice\nnoipctl device remove alice 0123456789abcdef",
	}
	cmd.AddCommand(a.deviceList(), a.deviceRemove())
	return cmd
}

// deviceView is a line of JSON: a device, and whose it is.
type deviceView struct {
	User message.Address `json:"user"`
	control.Device
}

func (a *app) deviceList() *cobra.Command {
	return &cobra.Command{
		Use:               "list [NAME]",
		ValidArgsFunction: complete(false, a.userNames),
		Short:             "list a user's devices, or everybody's",
		Long: "Lists a user's devices, or everybody's. A suspended device took nothing for too long, and\n" +
			"gets nothing more until its user logs in there with his password again.",
		Example: "noipctl device list alice --json",
		Args:    cli.Args("[NAME]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			users, err := a.users(cmd, args)
			if err != nil {
				return err
			}
			t := new(cli.Table)
			t.Row("USER", "DEVICE", "LABEL", "MADE", "SEEN", "STATE")
			var views []deviceView
			for _, u := range users {
				for _, d := range u.Devices {
					views = append(views, deviceView{u.Address, d})
					seen := "never"
					if !d.Seen.IsZero() {
						seen = cli.Ago(d.Seen)
					}
					t.Row(string(u.Address), d.ID.String(), d.Label, cli.Ago(d.Created), seen, deviceState(d))
				}
			}
			if a.json {
				return lines(cmd, views)
			}
			return t.Write(cmd.OutOrStdout(), "no devices")
		},
	}
}

func deviceState(d control.Device) string {
	switch {
	case d.Suspended != "":
		return "suspended: " + d.Suspended
	case d.Online:
		return "online"
	}
	return "away"
}

// users asks for the user of the arguments, or for all.
func (a *app) users(cmd *cobra.Command, args []string) ([]control.User, error) {
	if len(args) == 0 {
		return a.daemon().Users(cmd.Context())
	}
	who, err := a.local(cmd, args[0])
	if err != nil {
		return nil, err
	}
	u, err := a.daemon().User(cmd.Context(), who.User())
	return []control.User{u}, err
}

func (a *app) deviceRemove() *cobra.Command {
	return &cobra.Command{
		Use:               "remove NAME DEVICE",
		ValidArgsFunction: complete(false, a.userNames, a.deviceIDs),
		Short:             "make a user's device unknown: a lost one, say",
		Long: "Makes a user's device unknown. Its session ends, and its key logs in nowhere any more. What\n" +
			"waits for it goes to the device that the user has had longest. DEVICE is its id, or the\n" +
			"beginning of it.",
		Example: "noipctl device remove alice 0123456789abcdef",
		Args:    cli.Args("NAME", "DEVICE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			users, err := a.users(cmd, args[:1])
			if err != nil {
				return err
			}
			u := users[0]
			matches := slices.DeleteFunc(u.Devices, func(d control.Device) bool { return !strings.HasPrefix(d.ID.String(), args[1]) })
			if len(matches) != 1 || args[1] == "" {
				return cli.Misuse("noipctl device list "+u.Name, "%d devices of %s have an id that begins with %q", len(matches), u.Address, args[1])
			}
			if err := a.daemon().RemoveDevice(cmd.Context(), u.Name, matches[0].ID); err != nil {
				return err
			}
			return a.done(cmd, fmt.Sprintf("%s %s", u.Address, matches[0].ID), "removed")
		},
	}
}
