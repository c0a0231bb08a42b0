// Command noipctl administers the noipchatd of this machine: it says to the
// daemon's control socket what was asked, and prints what comes back, as tables
// or as JSON lines. It decides nothing, and touches no file.
package main

import (
	"os"

	"github.com/noipchat/noipchat/cmd/cli"
)

var version string // set by the linker: -X main.version=…

func main() {
	os.Exit(cli.Program{Root: root(), Version: version, Explain: explain}.Run())
}
