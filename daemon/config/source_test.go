package config

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// sameKeys checks the scanner against the parser: what has a place is what has a
// value, and the place looks like it.
func sameKeys(t *testing.T, text string) {
	t.Helper()
	values, src, errs := parse(text)
	if errs != nil {
		return
	}
	found := map[string]bool{}
	var walk func(path string, value any)
	walk = func(path string, value any) {
		if path != "" {
			found[path] = true
		}
		if tables, ok := tablesOf(value); ok {
			for i, table := range tables {
				walk(index(path, i), table)
			}
			return
		}
		switch value := value.(type) {
		case map[string]any:
			for name, v := range value {
				walk(join(path, name), v)
			}
		case []any:
			for i, v := range value {
				walk(index(path, i), v)
			}
		}
	}
	walk("", values)
	for path := range found {
		offset, ok := src.at[path]
		if !ok {
			t.Errorf("%s has no place", path)
			continue
		}
		_, name := cutLast(path)
		line, _, _ := strings.Cut(src.text[offset:], "\n")
		if !strings.ContainsAny(path, `"\`) && !strings.HasSuffix(name, "]") && !strings.Contains(line, name) && !strings.Contains(line, `\`) {
			t.Errorf("%s isn't in %q", path, line)
		}
	}
	for path := range src.at {
		if !found[path] {
			t.Errorf("%s has a place but no value", path)
		}
	}
}

func TestLines(t *testing.T) {
	const text = `a.b = 1
"c.d" . 'e' = [1, {f = 1, g.h = """
i = 1 [x] {""""", k = [
	# l = 1, "
	1,
	"]", '}' ],
},
  3]
[m . n] # o
p = "\"#"
[[q]]
[[q.r]]
s = 1
[[q.r]]
s = 1
[q.t]
u = 2020-01-01 10:00:00 # v
[[q]]
[[q.r]]
s = '\'`
	lines := map[string]int{
		"a": 1, "a.b": 1, `"c.d"`: 2, `"c.d".e`: 2, `"c.d".e[0]`: 2, `"c.d".e[1]`: 2, `"c.d".e[1].f`: 2, `"c.d".e[1].g`: 2,
		`"c.d".e[1].g.h`: 2, `"c.d".e[1].k`: 3, `"c.d".e[1].k[0]`: 5, `"c.d".e[1].k[1]`: 6, `"c.d".e[1].k[2]`: 6, `"c.d".e[2]`: 8,
		"m": 9, "m.n": 9, "m.n.p": 10, "q": 11, "q[0]": 11, "q[0].r": 12, "q[0].r[0]": 12, "q[0].r[0].s": 13,
		"q[0].r[1]": 14, "q[0].r[1].s": 15, "q[0].t": 16, "q[0].t.u": 17, "q[1]": 18, "q[1].r": 19, "q[1].r[0]": 19, "q[1].r[0].s": 20,
	}
	for _, text := range []string{text, text + "\n", strings.ReplaceAll(text, "\n", "\r\n"), "\uFEFF" + text} {
		_, src, errs := parse(text)
		if errs != nil {
			t.Fatal(errs)
		}
		for path, want := range lines {
			if got := src.lineOf(path); got != want {
				t.Errorf("%s: line %d, want %d", path, got, want)
			}
		}
		for path := range src.at {
			if lines[path] == 0 {
				t.Errorf("%s has a line", path)
			}
		}
		sameKeys(t, text)
	}
}

// Rubbish put into a good file is found on the line where it is.
func TestSyntaxErrorLine(t *testing.T) {
	lines := strings.Split("name = 'a'\nmax_hops = 1\n[[interface]]\nbind = 'b'\npublic = [\n'c',\n'd'\n]\n[spool]\ntotal = 1", "\n")
	for _, rubbish := range []string{"?", "x", "= 1", "x = ", "x = y", "x = \"", "x = '", "x = 1 2", "[x", "[[x]", "[x]]", "]", "}", "x = \"\\q\"", "x.", ".x = 1", "x = 08"} {
		for i := range len(lines) + 1 {
			if i > 4 && i < 8 { // in the array most of it is right at first
				continue
			}
			text := strings.Join(slices.Insert(slices.Clone(lines), i, rubbish), "\n")
			for _, text := range []string{text, strings.ReplaceAll(text, "\n", "\r\n")} {
				_, _, errs := parse(text)
				if len(errs) != 1 || errs[0].Line != i+1 {
					t.Errorf("%q on line %d: %v", rubbish, i+1, errs)
				}
			}
		}
	}
}

// The parser would take minutes, or all the stack, for some of these if they had
// the largest size.
func TestHostile(t *testing.T) {
	const size = maxFile / 4
	fill := func(head, body string) string { return head + strings.Repeat(body, (size-len(head))/len(body)) }
	var unknown strings.Builder
	for i := 0; unknown.Len() < size; i++ {
		fmt.Fprintf(&unknown, "max_hop%d = 1\n", i)
	}
	deepest := strings.TrimSuffix(strings.Repeat("a.", maxDepth-1), ".")
	for name, text := range map[string]string{
		"arrays":        fill("a = ", "["),
		"tables":        fill("a = ", "{a="),
		"headers":       fill("", "["),
		"dots":          fill("a", ".a"),
		"dotted header": fill("[a", ".a"),
		"long key":      fill("", "a"),
		"long header":   fill("["+strings.Repeat("a", size/2)+"]\n", "a=1\n"),
		"quotes":        fill("", `"`),
		"quoted keys":   fill("", `"a".`),
		"open strings":  fill("a = ", `"""`),
		"deep lines":    fill("["+deepest+"]\n", "a=1\n"),
		"same key":      fill("", "a=1\n"),
		"unknown keys":  unknown.String(),
		"array tables":  fill("", "[[a]]\n"),
		"deep tables":   fill("["+deepest+"]\n", "[["+deepest+"]]\n"),
		"elements":      fill("a = [", "1,"),
		"inline tables": fill("a = [", "{a=1},") + "]",
		"deep elements": fill(deepest+" = [", "{a.b=1},") + "]",
		"escapes":       fill(`a = """`, `\ `),
		"line folds":    fill(`a = """`, "\\\n"),
		"comments":      fill("", "#\n"),
		"carriage":      fill("", "\r\n"),
		"interfaces":    fill("", "[[interface]]\nbind='0.0.0.0:1'\n"),
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			l := newLoader("f")
			l.add("f", text)
			_, err := l.finish()
			if took := time.Since(start); err == nil || took > time.Minute {
				t.Errorf("took %v: %v", took, err)
			}
			t.Logf("%.2fs, %d errors: %.120v", time.Since(start).Seconds(), len(err.(Errors)), err)
		})
	}
}
