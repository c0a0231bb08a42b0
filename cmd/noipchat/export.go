package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"html"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/noipchat/noipchat/cmd/cli"
	"github.com/noipchat/noipchat/daemon/client"
	"github.com/noipchat/noipchat/daemon/durable"
	"github.com/noipchat/noipchat/daemon/message"
)

// form is a form that messages are exported in. What comes before and after them
// may be missing.
type form struct {
	head, message, foot func(w io.Writer, m client.Message, n names) error
}

var forms = map[string]form{
	"text": {message: writeHistory},
	"json": {message: func(w io.Writer, m client.Message, _ names) error { return cli.JSON(w, m) }},
	"html": {
		head:    func(w io.Writer, _ client.Message, _ names) error { return write(w, page) },
		message: writeHTML,
		foot:    func(w io.Writer, _ client.Message, _ names) error { return write(w, "</ol>\n</body>\n</html>\n") },
	},
}

// export is where messages go, and how.
type export struct {
	path, form string
	replace    bool
}

// check finds the form, by the file's name if it was not said.
func (e *export) check() error {
	if e.form == "" {
		e.form = "text"
		if ending := strings.TrimPrefix(strings.ToLower(filepath.Ext(e.path)), "."); forms[ending].message != nil {
			e.form = ending
		}
	}
	if forms[e.form].message == nil {
		return cli.Misuse("--format text, json or html", "--format %q", e.form)
	}
	if _, err := os.Lstat(e.path); err == nil && !e.replace { // before a long walk; CreateFunc is who decides
		return exists(e.path)
	}
	return nil
}

func exists(path string) error {
	return &cli.Error{Code: cli.ExitIO, Err: fmt.Errorf("%s: %w", path, fs.ErrExist), Hint: "another name, or --force to replace it"}
}

// run writes what the query asks for. The file is there when all of it is on disk.
func (e *export) run(ctx context.Context, store *client.Store, q client.Query, n names) (count int, err error) {
	progress := cli.NewProgress()
	defer progress.End()
	form := forms[e.form]
	put := durable.CreateFunc
	if e.replace {
		put = durable.WriteFunc
	}
	err = put(e.path, 0o600, func(file io.Writer) error {
		w := bufio.NewWriterSize(file, 64<<10)
		if form.head != nil {
			if err := form.head(w, client.Message{}, n); err != nil {
				return err
			}
		}
		err := store.Walk(q, func(m client.Message) error {
			count++
			progress.Show("%d messages", count)
			return errors.Join(ctx.Err(), form.message(w, m, n))
		})
		if err == nil && form.foot != nil {
			err = form.foot(w, client.Message{}, n)
		}
		return errors.Join(err, w.Flush())
	})
	if errors.Is(err, fs.ErrExist) {
		err = exists(e.path)
	}
	return count, err
}

func write(w io.Writer, s string) error {
	_, err := io.WriteString(w, s)
	return err
}

// page is the beginning of a document that needs nothing else. The policy keeps it
// so: nothing in it is run or fetched, should anything of a message get through.
const page = `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<title>History</title>
<style>
body { max-width: 44em; margin: auto; padding: 1em; font: 1em/1.45 system-ui, sans-serif; overflow-wrap: anywhere; }
ol { list-style: none; padding: 0; }
li { margin: 0 3em .8em 0; padding: .5em .8em; border-radius: .6em; border: 1px solid #8886; background: #8881; break-inside: avoid; }
li.out { margin: 0 0 .8em 3em; background: #48f2; }
p { margin: .2em 0; white-space: pre-wrap; }
header, footer { font-size: .85em; opacity: .75; }
time { float: right; margin-left: 1em; }
@media print { body { max-width: none; } }
</style>
</head>
<body>
<ol>
`

func writeHTML(w io.Writer, m client.Message, n names) error {
	side := "in"
	if m.Out {
		side = "out"
	}
	_, err := fmt.Fprintf(w, `<li class="%s" id="m%d"><header><time datetime="%s">%s</time>%s</header><p dir="auto">%s</p><footer>%s</footer></li>`+"\n",
		side, m.Seq, m.At.Format(time.RFC3339Nano), m.At.Local().Format(time.DateTime), escape(n.who(m)), escape(m.Body), escape(marks(m)))
	return err
}

// escape makes a text fit for HTML: nothing in it is markup, and nothing hides.
func escape(text string) string {
	lines := strings.Split(strings.ReplaceAll(text, "\r\n", "\n"), "\n")
	for i, l := range lines {
		lines[i] = html.EscapeString(cli.Sanitise(strings.ReplaceAll(l, "\t", "    ")))
	}
	return strings.Join(lines, "\n")
}

// names are people's names by their addresses.
type names map[message.Address]string

func (n names) of(a message.Address) string {
	if name := n[a]; name != "" {
		return name + " <" + string(a) + ">"
	}
	return string(a)
}

// who is the other side of a message.
func (n names) who(m client.Message) string {
	if !m.Out {
		return "from " + n.of(m.From)
	}
	to := make([]string, len(m.To))
	for i, a := range m.To {
		to[i] = n.of(a)
	}
	return "to " + strings.Join(to, ", ")
}

// marks are what is known of a message, for people.
func marks(m client.Message) string {
	all := m.State + ", " + m.ID.String()[:8]
	if m.First {
		all = "first, " + all
	}
	if m.Unverified {
		all = "unverified, " + all
	}
	return all
}

// writeHistory writes a message in one line. What it says is in the middle, so it
// can pretend neither who wrote it nor what became of it.
func writeHistory(w io.Writer, m client.Message, n names) error {
	_, err := fmt.Fprintf(w, "%s  %s  %s  (%s)\n", m.At.Local().Format(time.DateTime), cli.Sanitise(n.who(m)), oneLine(m.Body), marks(m))
	return err
}
