// Package cli is the manners that noipctl and noipchat share: flags and commands
// that refuse what they don't know, exit codes, errors with a hint, tables and
// JSON lines that no stranger's text can break, passwords. What a command does,
// and what its own errors mean, is the program's affair.
//
// It starts no goroutine that outlives a call, and touches no disk.
package cli

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
)

// Program is a command line.
type Program struct {
	Root    *cobra.Command
	Version string // as set by the linker; "": of the build's own record
	// Explain tells the exit code and the hint of the program's own errors, and
	// leaves all others to Explain of this package. Nil: there are no others.
	Explain func(error) *Error

	Manual Manual
}

// Run runs os.Args and returns the exit code, after it has said on standard error
// what went wrong. What commands write to cmd.OutOrStdout() is buffered, and
// written out when they return; who must know earlier uses os.Stdout.
func (p Program) Run() int {
	out := bufio.NewWriter(os.Stdout)
	p.Root.SetOut(out)
	p.Root.SetErr(os.Stderr)
	err := p.execute()
	if flushErr := out.Flush(); flushErr != nil && err == nil {
		err = p.explain(fmt.Errorf("writing the output: %w", flushErr))
	}
	if err == nil {
		return ExitDone
	}
	e, ok := errors.AsType[*Error](err)
	if !ok { // cobra's own, of the arguments
		e = &Error{ExitUsage, err, "see: " + p.Root.Name() + " --help"}
	}
	return Report(os.Stderr, p.Root.Name(), e)
}

func (p Program) explain(err error) *Error {
	if p.Explain != nil {
		return p.Explain(err)
	}
	return Explain(err)
}

// execute returns only an *Error from a command, and anything from cobra.
func (p Program) execute() error {
	root := p.Root
	root.SilenceErrors, root.SilenceUsage = true, true
	root.PersistentFlags().BoolP("help", "h", false, "show this text, or that of a command")
	root.PersistentFlags().Bool("version", false, "show the version")
	root.SetVersionTemplate(root.Name() + " {{.Version}}\n")
	root.SetHelpFunc(help)
	root.SetHelpCommand(p.helpCommand())
	root.SetFlagErrorFunc(flagError)
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	if c, _, err := root.Find([]string{"completion"}); err == nil {
		c.Short = "print what makes a shell complete these commands"
	}
	p.prepare(root, Version(p.Version))
	return root.Execute()
}

// prepare gives a command and those below what all of them have.
func (p Program) prepare(cmd *cobra.Command, version string) {
	cmd.Version = version
	cmd.DisableFlagsInUseLine = true
	if cmd.HasSubCommands() && !cmd.Runnable() {
		// Without this, cobra prints the help for a mistyped command, and exits 0.
		cmd.Args = cobra.ArbitraryArgs
		cmd.RunE = noCommand
	} else if run := cmd.RunE; run != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			if err := run(cmd, args); err != nil {
				return p.explain(err)
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		p.prepare(sub, version)
	}
}

// noCommand is a group of commands that was called without one of its own.
func noCommand(cmd *cobra.Command, args []string) error {
	hint := "see: " + cmd.CommandPath() + " --help"
	if len(args) == 0 {
		return Misuse(hint, "which command of %s?", cmd.CommandPath())
	}
	cmd.SuggestionsMinimumDistance = 2
	if like := cmd.SuggestionsFor(args[0]); len(like) > 0 {
		hint = "did you mean: " + cmd.CommandPath() + " " + strings.Join(like, ", ")
	}
	return Misuse(hint, "%s has no command %q", cmd.CommandPath(), args[0])
}

// flagError says first that the command is wrong, if it is: its flags are not
// known then either.
func flagError(cmd *cobra.Command, err error) error {
	if cmd.HasSubCommands() && cmd.Flags().NArg() > 0 {
		return noCommand(cmd, cmd.Flags().Args())
	}
	return Misuse("see: "+cmd.CommandPath()+" --help", "%v", err)
}

// Args checks the number of arguments by their names as in the usage line:
// "NAME", "[NAME]" for one that may be left out, "ID…" at the end for one or more.
func Args(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		hint := "usage: " + cmd.UseLine()
		for i, name := range names {
			if i >= len(args) && !strings.HasPrefix(name, "[") {
				return Misuse(hint, "%s is missing", strings.TrimSuffix(name, "…"))
			}
		}
		many := len(names) > 0 && strings.HasSuffix(names[len(names)-1], "…")
		if len(args) > len(names) && !many {
			return Misuse(hint, "an argument too many: %q", args[len(names)])
		}
		return nil
	}
}

// Version is the linker's word, or that of the module's build record.
func Version(linked string) string {
	if linked != "" {
		return linked
	}
	if build, ok := debug.ReadBuildInfo(); ok && build.Main.Version != "" {
		return build.Main.Version
	}
	return "(devel)"
}
