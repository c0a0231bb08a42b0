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
	os.Exit(cli.Program{Root: root(), Version: version, Explain: explain}.Run())
}
