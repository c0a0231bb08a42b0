package cli

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Manual is what a manual page says that the commands don't know of themselves.
// Texts of Files and Environment are [what, about it].
type Manual struct {
	Section     int
	Environment [][2]string
	Files       [][2]string
	SeeAlso     []string // "noipchatd 8"
}

// exits are the codes of every program, for people.
var exits = [][2]string{
	{fmt.Sprint(ExitDone), "Done."},
	{fmt.Sprint(ExitUsage), "The command line is wrong; the hint says how."},
	{fmt.Sprint(ExitUnreachable), "No daemon, or no server, answers."},
	{fmt.Sprint(ExitFault), "Our fault: please report it."},
	{fmt.Sprint(ExitIO), "Input or output failed."},
	{fmt.Sprint(ExitNotYet), "Not yet: the time is over, or there is less than was asked for."},
	{fmt.Sprint(ExitProtocol), "The other side broke the protocol."},
	{fmt.Sprint(ExitRefused), "Refused, or not allowed."},
	{fmt.Sprint(ExitConfig), "The configuration is wrong."},
}

// write writes the page of a program: what --help says of each command, once, in
// the form of mdoc(7).
func (m Manual) write(w io.Writer, root *cobra.Command) error {
	d := &mdoc{}
	d.macro("Dd", date().Format("January 2, 2006"))
	d.macro("Dt", strings.ToUpper(root.Name()), fmt.Sprint(m.Section))
	d.macro("Os", "NoIPChat")
	d.macro("Sh", "NAME")
	d.macro("Nm", root.Name())
	d.macro("Nd", strings.TrimPrefix(root.Short, root.Name()+" "))
	d.macro("Sh", "SYNOPSIS")
	d.macro("Nm")
	d.text(strings.TrimPrefix(root.Use, root.Name()+" "))
	d.macro("Sh", "DESCRIPTION")
	d.about(root)
	d.text("Every command takes these options, before or after it:")
	d.flags(root.PersistentFlags())
	d.macro("Sh", "COMMANDS")
	d.commands(root)
	d.list("ENVIRONMENT", "Ev", m.Environment)
	d.list("FILES", "Pa", m.Files)
	d.macro("Sh", "EXIT STATUS")
	d.items("Er", exits)
	d.example(root, "Sh", "EXAMPLES")
	d.macro("Sh", "SEE ALSO")
	for i, page := range m.SeeAlso {
		name, section, _ := strings.Cut(page, " ")
		more := ","
		if i == len(m.SeeAlso)-1 {
			more = ""
		}
		d.macro("Xr", strings.TrimSpace(name+" "+section+" "+more))
	}
	_, err := io.WriteString(w, d.b.String())
	return err
}

// date is that of the page: now, or what reproducible-builds.org has agreed on.
func date() time.Time {
	if s, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64); err == nil {
		return time.Unix(s, 0).UTC()
	}
	return time.Now().UTC()
}

// mdoc gathers a page.
type mdoc struct{ b strings.Builder }

// macro writes a line that begins with a macro.
func (d *mdoc) macro(name string, args ...string) {
	d.b.WriteString("." + strings.TrimSpace(name+" "+strings.Join(args, " ")) + "\n")
}

// escaped makes a text that is nothing but itself to roff.
var escaped = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "…", `\&...`, `"`, `\(dq`, "`", `\(ga`)

// text writes lines; what would be a macro of a line is none.
func (d *mdoc) text(text string) {
	for line := range strings.Lines(text) {
		line = escaped.Replace(strings.TrimRight(line, "\n"))
		if strings.HasPrefix(line, ".") {
			line = `\&` + line
		}
		if line == "" {
			line = ".Pp"
		}
		d.b.WriteString(line + "\n")
	}
}

// about is what a command does: a sentence, if its table has only a phrase.
func (d *mdoc) about(cmd *cobra.Command) {
	text := cmd.Long
	if text == "" {
		text = strings.ToUpper(cmd.Short[:1]) + cmd.Short[1:] + "."
	}
	d.text(strings.ReplaceAll(text, ". ", ".\n")) // roff wants each sentence on a line of its own
}

func (d *mdoc) flags(flags *pflag.FlagSet) {
	var all []*pflag.Flag
	flags.VisitAll(func(f *pflag.Flag) {
		if !f.Hidden && f.Name != "help" && f.Name != "version" {
			all = append(all, f)
		}
	})
	if len(all) == 0 {
		return
	}
	d.macro("Bl", "-tag -width Ds")
	for _, f := range all {
		argument, usage := pflag.UnquoteUsage(f)
		tag := "Fl -" + escaped.Replace(f.Name)
		if f.Shorthand != "" {
			tag = "Fl " + f.Shorthand + " , " + tag
		}
		if argument != "" {
			tag += " Ar " + argument
		}
		d.macro("It", tag)
		d.text(strings.ToUpper(usage[:1]) + usage[1:] + ".")
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "[]" && f.DefValue != "0s" {
			d.text("The default is " + f.DefValue + ".")
		}
	}
	d.macro("El")
}

// commands writes a section for each command that does something.
func (d *mdoc) commands(parent *cobra.Command) {
	for _, cmd := range parent.Commands() {
		switch {
		case !cmd.IsAvailableCommand() || cmd.Name() == "help":
			continue
		case cmd.Name() == "completion": // its own texts are for those who want no package
			d.macro("Ss", "completion bash | zsh | fish")
			d.about(&cobra.Command{Short: cmd.Short})
			continue
		case cmd.HasSubCommands():
			if cmd.Runnable() && cmd.HasFlags() {
				d.command(cmd)
			}
			d.commands(cmd)
			continue
		}
		d.command(cmd)
	}
}

func (d *mdoc) command(cmd *cobra.Command) {
	d.macro("Ss", escaped.Replace(strings.TrimPrefix(cmd.UseLine(), cmd.Root().Name()+" ")))
	d.about(cmd)
	d.flags(cmd.LocalNonPersistentFlags())
	d.example(cmd, "Pp", "")
}

func (d *mdoc) example(cmd *cobra.Command, macro, title string) {
	if cmd.Example == "" {
		return
	}
	if title != "" {
		d.macro(macro, title)
	}
	d.macro("Bd", "-literal -offset indent")
	d.text(cmd.Example)
	d.macro("Ed")
}

func (d *mdoc) list(title, kind string, entries [][2]string) {
	if len(entries) > 0 {
		d.macro("Sh", title)
		d.items(kind, entries)
	}
}

func (d *mdoc) items(kind string, entries [][2]string) {
	d.macro("Bl", "-tag -width Ds")
	for _, e := range entries {
		d.macro("It", kind, escaped.Replace(e[0]))
		d.text(strings.ReplaceAll(e[1], ". ", ".\n"))
	}
	d.macro("El")
}
