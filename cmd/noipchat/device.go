package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/noipchat/noipchat/cmd/cli"
	"github.com/noipchat/noipchat/daemon/client"
)

func (a *app) deviceCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "device",
		Short:   "list and remove the devices of your account",
		Long:    "Each device has a key of its own. What you send and get reaches all of them.",
		Example: "noipchat device list\nnoipchat device remove 0123456789abcdef",
	}
	cmd.AddCommand(a.deviceList(), a.deviceRemove())
	return cmd
}

func (a *app) deviceList() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "list",
		Short: "list the devices of your account",
		Long: `Lists the devices of your account, as your home server has them. The ids are the
fingerprints of their keys. A suspended device took nothing for too long: log in there with
your password to go on.`,
		Example: "noipchat device list --json",
		Args:    cli.Args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			devices, err := a.devices(cmd, timeout)
			if err != nil {
				return err
			}
			if a.json {
				for _, d := range devices {
					if err := cli.JSON(cmd.OutOrStdout(), d); err != nil {
						return err
					}
				}
				return nil
			}
			t := new(cli.Table)
			t.Row("DEVICE", "LABEL", "MADE", "SEEN", "STATE")
			for _, d := range devices {
				seen, state := "never", "away"
				if !d.Seen.IsZero() {
					seen = cli.Ago(d.Seen)
				}
				switch {
				case d.This:
					state = "this one"
				case d.Suspended != "":
					state = "suspended: " + d.Suspended
				case d.Online:
					state = "online"
				}
				t.Row(d.ID.String(), d.Label, cli.Ago(d.Created), seen, state)
			}
			return t.Write(cmd.OutOrStdout(), "no devices")
		},
	}
	askFlags(cmd, &timeout)
	return cmd
}

func askFlags(cmd *cobra.Command, timeout *time.Duration) {
	cmd.Flags().DurationVar(timeout, "timeout", 30*time.Second, "wait at most so long; a `TIME` as 90s or 5m")
}

func (a *app) devices(cmd *cobra.Command, timeout time.Duration) (devices []client.Device, err error) {
	ctx, cancel := untilSignal(cmd.Context(), timeout)
	defer cancel()
	err = a.work(ctx, func(ctx context.Context, w *worker) error {
		return w.ask(ctx, func(ctx context.Context) (err error) {
			devices, err = w.profile.Devices(ctx)
			return err
		})
	})
	return devices, err
}

func (a *app) deviceRemove() *cobra.Command {
	var stdin bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "remove DEVICE",
		Short: "make a device unknown: a lost one, say",
		Long: `Makes a device unknown to your home server: its key logs in nowhere any more. It needs your
password, so that whoever has found a device can't remove the others. DEVICE is its id as
"noipchat device list" shows it, or the beginning of it. History that is on the device stays there.`,
		Example: "noipchat device remove 0123456789abcdef",
		Args:    cli.Args("DEVICE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			devices, err := a.devices(cmd, timeout)
			if err != nil {
				return err
			}
			matches := slices.DeleteFunc(devices, func(d client.Device) bool { return !strings.HasPrefix(d.ID.String(), args[0]) })
			if len(matches) != 1 || args[0] == "" {
				return cli.Misuse("noipchat device list", "%d devices have an id that begins with %q", len(matches), args[0])
			}
			password, err := cli.Password{Prompt: "password", Stdin: stdin}.Read()
			if err != nil {
				return err
			}
			ctx, cancel := untilSignal(cmd.Context(), timeout)
			defer cancel()
			err = a.work(ctx, func(ctx context.Context, w *worker) error {
				return w.ask(ctx, func(ctx context.Context) error { return w.profile.RemoveDevice(ctx, password, matches[0].ID) })
			})
			if err != nil {
				return err
			}
			if a.json {
				return cli.JSON(cmd.OutOrStdout(), struct {
					Done   string `json:"done"`
					Device string `json:"device"`
				}{"device removed", matches[0].ID.String()})
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is removed\n", matches[0].ID)
			return err
		},
	}
	cmd.Flags().BoolVar(&stdin, "password-stdin", false, "read the password from a line of standard input")
	askFlags(cmd, &timeout)
	return cmd
}
