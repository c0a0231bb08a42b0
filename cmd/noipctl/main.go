// Command noipctl administers the noipchatd of this machine: it says to the
// daemon's control socket what was asked, and prints what comes back, as tables
// or as JSON lines. It decides nothing. Of files it writes those of peer add, the
// configuration, by the guide, exports, and by import a whole server.
package main

import (
	"os"

	"github.com/noipchat/noipchat/cmd/cli"
)

var version string // set by the linker: -X main.version=…

func main() {
	os.Exit(cli.Program{Root: root(), Version: version, Explain: explain, Manual: cli.Manual{
		Section:     1,
		Environment: [][2]string{{"NOIPCHAT_SOCKET", "Where the control socket is, unless --socket says so."}},
		Files: [][2]string{
			{defaultSocket, "The control socket. Who may open it may administer: root, the user noipchat, and the group noipchat-admin."},
			{defaultConfig, "The server's configuration, which the guide makes; see noipchat.toml(5)."},
			{"/etc/noipchat/conf.d/peer-NAME.toml", "What peer add writes and peer remove deletes."},
		},
		SeeAlso: []string{"noipchat 1", "systemctl 1", "noipchat.toml 5", "noipchatd 8"},
	}}.Run())
}
