package main

import (
	"errors"
	"io/fs"

	"github.com/noipchat/noipchat/cmd/cli"
	"github.com/noipchat/noipchat/daemon/config"
	"github.com/noipchat/noipchat/daemon/control"
)

// explain finds the exit code of an error, and what an admin can do about it.
func explain(err error) *cli.Error {
	var bad config.Errors
	switch {
	case errors.As(err, &bad):
		return &cli.Error{Code: cli.ExitConfig, Err: err, Hint: bad.Hint()}
	case errors.Is(err, control.ErrUnreachable) && errors.Is(err, fs.ErrNotExist):
		return &cli.Error{Code: cli.ExitUnreachable, Err: err, Hint: "does it run (systemctl status noipchat)? It begins when there is a configuration: noipctl guide.\nOr is its socket elsewhere (--socket)?"}
	case errors.Is(err, control.ErrUnreachable):
		return &cli.Error{Code: cli.ExitUnreachable, Err: err, Hint: "does it run (systemctl status noipchat), and is that its socket (--socket)?"}
	case errors.Is(err, control.ErrPermission):
		return &cli.Error{Code: cli.ExitRefused, Err: err, Hint: "run it as root, or as a member of the group noipchat-admin"}
	case errors.Is(err, control.ErrProtocol):
		return &cli.Error{Code: cli.ExitProtocol, Err: err, Hint: "is that the socket of a noipchatd of this version?"}
	case errors.Is(err, control.ErrHandoff):
		code := cli.ExitFault
		if errors.Is(err, control.ErrConfig) {
			code = cli.ExitConfig
		}
		return &cli.Error{Code: code, Err: err, Hint: "nobody was disconnected. When this is mended: noipctl handoff; to go on with a new process at any price: systemctl restart noipchat"}
	case errors.Is(err, control.ErrConfig):
		return &cli.Error{Code: cli.ExitConfig, Err: err, Hint: "the server goes on with the configuration it had; reload again when this is mended"}
	case errors.Is(err, control.ErrNotFound):
		return &cli.Error{Code: cli.ExitRefused, Err: err, Hint: "the list command shows what there is"}
	case errors.Is(err, control.ErrIO):
		return &cli.Error{Code: cli.ExitIO, Err: err, Hint: "look at the server's disk: noipctl status, journalctl -u noipchat"}
	case errors.Is(err, control.ErrFault):
		return &cli.Error{Code: cli.ExitFault, Err: err, Hint: "the server's log says more: journalctl -u noipchat"}
	}
	return cli.Explain(err)
}
