package main

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"

	"github.com/noipchat/noipchat/cmd/cli"
	"github.com/noipchat/noipchat/daemon/client"
	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/wire"
)

// explain finds the exit code of an error, and what its user can do about it.
func explain(err error) *cli.Error {
	var changed *identity.ChangedKeyError
	var no *message.Refusal
	var devices *client.ChangedDevicesError
	var network *net.OpError // not net.Error, which every error of a system call is
	switch {
	case errors.As(err, new(*cli.Error)):
		return cli.Explain(err)
	case errors.Is(err, client.ErrNoAccount):
		return &cli.Error{Code: cli.ExitConfig, Err: err, Hint: "noipchat login alice@server1 --server IP:PORT, or noipchat join LINE"}
	case errors.Is(err, client.ErrNoContact):
		return cli.Misuse("write an address as bob@server1; your names: noipchat contact list", "%w", err)
	case errors.Is(err, client.ErrMisuse):
		return cli.Misuse("what each command takes: noipchat help COMMAND", "%w", err)
	case errors.Is(err, client.ErrEnded):
		return &cli.Error{Code: cli.ExitUnreachable, Err: err, Hint: "it may have been done all the same: look, and try again"}
	case errors.As(err, &changed):
		return &cli.Error{Code: cli.ExitRefused, Err: err, Hint: "nothing was sent; if its admin confirms the new key: noipchat server import LINE"}
	case errors.As(err, &devices):
		return &cli.Error{Code: cli.ExitRefused, Err: err, Hint: "nothing was sent to him; ask him, compare words, and confirm: noipchat contact verify " + string(devices.Address)}
	case errors.Is(err, client.ErrDamaged):
		return &cli.Error{Code: cli.ExitIO, Err: err, Hint: "restore it from a backup, or use another profile: --profile NAME"}
	case errors.Is(err, client.ErrUnwritable):
		return &cli.Error{Code: cli.ExitIO, Err: err, Hint: "whose is it, and can that disk be written? ls -l"}
	case errors.As(err, new(*exec.Error)):
		return &cli.Error{Code: cli.ExitUnreachable, Err: err, Hint: "is the program that leads to the server installed? noipchat server list"}
	case errors.As(err, &no) && no.Code == message.CodeBadLogin:
		return &cli.Error{Code: cli.ExitRefused, Err: err, Hint: "check address and password; an admin can set a new one: noipctl user passwd NAME"}
	case errors.As(err, &no) && no.Code == message.CodeSuspended:
		return &cli.Error{Code: cli.ExitRefused, Err: err, Hint: "to go on with it: noipchat login ADDRESS --server IP:PORT; what came meanwhile is on your other devices"}
	case errors.Is(err, wire.ErrProtocol):
		return &cli.Error{Code: cli.ExitProtocol, Err: err, Hint: "is that a NoIPChat server, of the same version?"}
	case errors.As(err, &no), errors.Is(err, message.ErrMalformed):
		return cli.Explain(err)
	case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &network), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return &cli.Error{Code: cli.ExitUnreachable, Err: err, Hint: "is the server up, and is that its address? noipchat server list"}
	}
	return cli.Explain(err)
}
