// Command noipchat is the terminal client. Its commands are a tool for scripts:
// each does one thing, says what became of it, and leaves the rest to the profile's
// store. What they do with a server is package client's affair.
package main

import (
	"os"

	"github.com/noipchat/noipchat/cmd/cli"
)

var version string // set by the linker: -X main.version=…

func main() {
	os.Exit(cli.Program{Root: root(), Version: version, Explain: explain, Manual: cli.Manual{
		Section: 1,
		Environment: [][2]string{
			{"NOIPCHAT_HOME", "The folder with all profiles, unless --home says so."},
			{"XDG_STATE_HOME", "Where the folder noipchat with all profiles is otherwise; ~/.local/state if it is not set."},
		},
		Files:   [][2]string{{"~/.local/state/noipchat/PROFILE/", "A profile: keys, history, and what is to be sent. It is a device of its own; never run a copy beside it."}},
		SeeAlso: []string{"noipctl 1", "noipchatd 8"},
	}}.Run())
}
