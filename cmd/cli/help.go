package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// helpCommand is "help COMMAND…"; cobra's own exits 0 for commands that aren't.
func (p Program) helpCommand() *cobra.Command {
	var page bool
	help := &cobra.Command{
		Use:   "help [COMMAND…]",
		Short: "show the text of a command",
		RunE: func(cmd *cobra.Command, args []string) error {
			if page {
				return p.Manual.write(cmd.OutOrStdout(), cmd.Root())
			}
			target, rest, err := cmd.Root().Find(args)
			if err != nil {
				return Misuse("see: "+cmd.Root().Name()+" --help", "%v", err)
			}
			if len(rest) > 0 && target.HasSubCommands() {
				return noCommand(target, rest)
			}
			return target.Help()
		},
	}
	help.Flags().BoolVar(&page, "man", false, "print the manual page of the whole program, in mdoc(7)")
	return help
}

// help writes what --help shows: one screen.
func help(cmd *cobra.Command, _ []string) {
	w := cmd.OutOrStdout()
	about := cmd.Long
	if about == "" {
		about = cmd.Short
	}
	use := cmd.UseLine()
	if cmd.HasSubCommands() && !strings.HasSuffix(use, "COMMAND") {
		use += " COMMAND"
	}
	fmt.Fprintf(w, "%s\n\nUsage: %s\n", about, use)
	section(w, "Commands", commands(cmd))
	section(w, "Flags", cmd.LocalFlags().FlagUsages())
	section(w, "Flags of every command", cmd.InheritedFlags().FlagUsages())
	section(w, "Example", indent(cmd.Example))
}

func section(w io.Writer, title, text string) {
	if text = strings.TrimRight(text, "\n"); text != "" {
		fmt.Fprintf(w, "\n%s:\n%s\n", title, text)
	}
}

func commands(cmd *cobra.Command) string {
	var b strings.Builder
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			fmt.Fprintf(&b, "  %-*s   %s\n", cmd.NamePadding(), sub.Name(), sub.Short)
		}
	}
	return b.String()
}

func indent(text string) string {
	if text == "" {
		return ""
	}
	return "  " + strings.ReplaceAll(text, "\n", "\n  ")
}
