package packaging_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/noipchat/noipchat/daemon/control"
)

// tool is the path of a program of a Debian package, which .ci/run installs.
func tool(t *testing.T, name, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed: apt install %s", name, pkg)
	}
	return path
}

// live is a server that runs, with a user who has written to himself, and to nobody, and a
// stranger who guesses.
type live struct {
	socket, address string
	log             *bytes.Buffer // complete when it has ended
	end             func()
	t               *testing.T
	dir, bin        string
}

// sh runs a command beside the server.
func (s *live) sh(command string) {
	s.t.Helper()
	cmd := exec.Command("bash", "-c", command)
	cmd.Dir, cmd.Env = s.dir, append(os.Environ(), "ADDRESS="+s.address, "PATH="+s.bin+":"+os.Getenv("PATH"))
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("%s: %v\n%s", command, err, out)
	}
}

// goLive starts noipchatd on a socket that this test has opened, and hands on as systemd would.
func goLive(t *testing.T, bin string, env ...string) *live {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	file, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	dir, err := os.MkdirTemp("", "live") // short: sockets are in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &live{socket: filepath.Join(dir, "control.sock"), address: l.Addr().String(), log: new(bytes.Buffer), t: t, dir: dir, bin: bin}
	config := filepath.Join(dir, "noipchat.toml")
	if err := os.WriteFile(config, []byte("name = \"server1\"\n[[interface]]\nbind = \""+s.address+"\"\n[[peer]]\nname = \"server2\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	daemon := exec.Command("sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@"`, filepath.Join(bin, "noipchatd"), "--config", config, "--state", filepath.Join(dir, "state"), "--runtime", dir)
	daemon.Env, daemon.ExtraFiles, daemon.Stderr = append(os.Environ(), env...), []*os.File{file}, s.log
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	s.end = func() {
		if !ended {
			ended = true
			daemon.Process.Signal(os.Interrupt)
			daemon.Wait()
		}
	}
	t.Cleanup(s.end)
	admin := control.New(s.socket)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, err := admin.Status(ctx); err != nil; _, err = admin.Status(ctx) {
		select {
		case <-ctx.Done():
			t.Fatalf("%v\n%s", err, s.log)
		case <-time.After(10 * time.Millisecond): // between two attempts
		}
	}
	if _, err := admin.AddUser(ctx, "alice", "correct horse"); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{
		`noipchat --home alice login alice@server1 --server $ADDRESS --trust-first --password-stdin <<<'correct horse'`,
		`noipchat --home alice send alice@server1 -m 'to myself' --wait held`,
		`! noipchat --home alice send nobody@server1 -m hello --wait held`,
		`! noipchat --home eve login alice@server1 --server $ADDRESS --trust-first --password-stdin <<<'wrong horse'`,
		`! noipchat --home eve login nobody@server1 --server $ADDRESS --trust-first --password-stdin <<<'wrong horse'`,
	} {
		s.sh(command)
	}
	return s
}

// TestFail2ban: the filter finds the addresses of those who guess in what the server really
// writes, to the journal and to a file, and no address that somebody has only written.
func TestFail2ban(t *testing.T) {
	tool(t, "fail2ban-regex", "fail2ban")
	bin := programs(t)
	evil := `x source=198.51.100.1 reason="bad-login: no" `
	for name, env := range map[string]string{"file": "X=1", "journal": "JOURNAL_STREAM=1:1"} {
		t.Run(name, func(t *testing.T) {
			s := goLive(t, bin, env)
			s.end()
			slog.New(slog.NewTextHandler(s.log, nil)).Info("a login was refused", "user", evil, "source", "203.0.113.66", "agent", evil, "reason", "bad-login: no")
			slog.New(slog.NewTextHandler(s.log, nil)).Info("a login was refused", "user", "bob", "source", "203.0.113.77", "agent", "x", "reason", "later: the server is busy (try again in 1s)")
			var log strings.Builder
			for line := range strings.Lines(s.log.String()) {
				if rest, ok := strings.CutPrefix(line, "<"); ok { // the journal's priority; this is how fail2ban gets it from there
					line = "Nov 25 16:00:00 host noipchatd[4711]: " + rest[2:]
				}
				log.WriteString(line)
			}
			path := filepath.Join(t.TempDir(), "log")
			if err := os.WriteFile(path, []byte(log.String()), 0o600); err != nil {
				t.Fatal(err)
			}
			out := output(t, "fail2ban-regex", "--out", "ip", path, "../contrib/fail2ban/filter.d/noipchat.conf")
			have := strings.Fields(out)
			slices.Sort(have)
			if want := []string{"127.0.0.1", "127.0.0.1", "203.0.113.66"}; !slices.Equal(have, want) {
				t.Errorf("it finds %v, want %v, in\n%s", have, want, &log)
			}
		})
	}
}

// prometheus runs one that scrapes a server twice a second, and returns how to ask its API.
func prometheus(t *testing.T, s *live) (ask func(api string, parameters url.Values, data any)) {
	t.Helper()
	program := tool(t, "prometheus", "prometheus")
	there := &url.URL{Scheme: "http", Host: "noipchatd"}
	proxy := httputil.NewSingleHostReverseProxy(there)
	proxy.Transport = &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", s.socket)
	}}
	metrics := httptest.NewServer(proxy)
	t.Cleanup(metrics.Close)
	rules, err := filepath.Abs("../contrib/prometheus/noipchat.rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	config := fmt.Sprintf("global: {scrape_interval: 500ms, evaluation_interval: 500ms}\nrule_files: [%s]\nscrape_configs: [{job_name: noipchat, static_configs: [{targets: [%q]}]}]\n",
		rules, strings.TrimPrefix(metrics.URL, "http://"))
	if err := os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address=127.0.0.1:0")
	said, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Signal(os.Interrupt); cmd.Wait() })
	found := make(chan string, 1)
	go func() {
		var log bytes.Buffer
		address := regexp.MustCompile(`msg="Listening on" address=(\S+)`)
		for b := make([]byte, 4<<10); ; {
			n, err := said.Read(b)
			log.Write(b[:n])
			if m := address.FindSubmatch(log.Bytes()); m != nil {
				found <- string(m[1])
				io.Copy(io.Discard, said)
				return
			}
			if err != nil {
				found <- ""
				return
			}
		}
	}()
	address := <-found
	if address == "" {
		t.Fatal("prometheus does not listen")
	}
	return func(api string, parameters url.Values, data any) {
		t.Helper()
		answer, err := http.Get("http://" + address + "/api/v1/" + api + "?" + parameters.Encode())
		if err != nil {
			return // not ready
		}
		defer answer.Body.Close()
		a := struct {
			Error string
			Data  any
		}{Data: data}
		if err := json.NewDecoder(answer.Body).Decode(&a); err == nil && a.Error != "" {
			t.Fatalf("%s %v: %s", api, parameters, a.Error)
		}
	}
}

// TestMetrics: every query of the dashboard has an answer, and every metric that an alert looks
// at is there, from a server that runs; none of the alerts is raised by it.
func TestMetrics(t *testing.T) {
	promtool := tool(t, "promtool", "prometheus")
	for _, args := range [][]string{{"check", "rules", "noipchat.rules.yml"}, {"test", "rules", "noipchat.test.yml"}} {
		cmd := exec.Command(promtool, args...)
		cmd.Dir = "../contrib/prometheus"
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
	s := goLive(t, programs(t))
	ask := prometheus(t, s)
	query := func(expr string) []any {
		var data struct{ Result []any }
		ask("query", url.Values{"query": {expr}}, &data)
		return data.Result
	}
	soon := func(there func() bool) bool {
		enough := time.After(time.Minute)
		for !there() {
			select {
			case <-enough:
				return false
			case <-time.After(100 * time.Millisecond): // until it has scraped twice
			}
		}
		return true
	}
	answered := func(expr string) bool { return soon(func() bool { return len(query(expr)) > 0 }) }
	// What is asked for is what changed, so that something has to, under its eyes.
	if !answered("noipchat_sessions") {
		t.Fatal("it has scraped nothing")
	}
	if _, err := control.New(s.socket).AddUser(t.Context(), "bob", "correct horse"); err != nil {
		t.Fatal(err)
	}
	s.sh(`noipchat --home alice send bob@server1 -m 'this waits for you' --wait held`)

	var dashboard struct {
		Templating struct {
			List []struct{ Name, Type, Query string }
		}
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	text := read(t, "../contrib/grafana/noipchat.json")
	if err := json.Unmarshal([]byte(text), &dashboard); err != nil {
		t.Fatal(err)
	}
	// As Grafana does: variables stand for what their queries find, and the interval for four scrapes or more.
	variables := []string{"$__rate_interval", "5m"}
	labelValues := regexp.MustCompile(`^label_values\((\w+), (\w+)\)$`)
	for _, v := range dashboard.Templating.List {
		if v.Type != "query" {
			continue
		}
		m := labelValues.FindStringSubmatch(v.Query)
		if m == nil {
			t.Fatalf("what does the variable %s ask for: %s", v.Name, v.Query)
		}
		var values []string
		if !soon(func() bool {
			ask("label/"+m[2]+"/values", url.Values{"match[]": {m[1]}}, &values)
			return len(values) > 0
		}) {
			t.Fatalf("nothing answers %s", v.Query)
		}
		for i := range values {
			values[i] = regexp.QuoteMeta(values[i])
		}
		variables = append(variables, "$"+v.Name, strings.ReplaceAll("("+strings.Join(values, "|")+")", `\`, `\\`))
	}
	queries := 0
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			queries++
			expr := strings.NewReplacer(variables...).Replace(target.Expr)
			if !answered(expr) {
				t.Errorf("%s: nothing answers %s", p.Title, expr)
			}
		}
	}
	metric := regexp.MustCompile(`\b(noipchat|process)_\w+(\{[^}]*\})?|\bup\{[^}]*\}`)
	named := metric.FindAllString(read(t, "../contrib/prometheus/noipchat.rules.yml"), -1)
	for _, m := range named {
		if !answered(m) {
			t.Errorf("an alert looks at %s, which is not there", m)
		}
	}
	if all := strings.Count(text, `"expr":`); queries < 25 || queries != all || len(variables) < 4 || len(named) < 10 {
		t.Errorf("%d queries of the dashboard, of %d, %d variables, %d metrics of the alerts", queries, all, len(variables)/2, len(named))
	}
	raised := query(`ALERTS`)
	for late := time.Now().Add(time.Minute); len(raised) > 0 && time.Now().Before(late); raised = query(`ALERTS`) {
		time.Sleep(100 * time.Millisecond) // one scrape may have come too late
	}
	if len(raised) > 0 {
		t.Errorf("alerts of a healthy server: %v", raised)
	}
}

func TestAppArmor(t *testing.T) {
	output(t, tool(t, "apparmor_parser", "apparmor"), "--skip-kernel-load", "--skip-cache", "../contrib/apparmor/usr.bin.noipchatd")
}

// TestMetricsTable: docs/metrics.md has every metric that a server shows, with its type and
// labels, and a unit that goes with its name.
func TestMetricsTable(t *testing.T) {
	s := goLive(t, programs(t))
	there := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", s.socket)
	}}}
	answer, err := there.Get("http://noipchatd/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]string{} // name to type
	labels := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (\w+) (\w+)$`).FindAllStringSubmatch(string(body), -1) {
		shown[m[1]] = m[2]
	}
	for _, m := range regexp.MustCompile(`(?m)^(noipchat_\w+)\{(\w+)=`).FindAllStringSubmatch(string(body), -1) {
		labels[m[1]] = m[2]
	}
	page := read(t, "../docs/metrics.md")
	told := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(noipchat_\\w+)(?:\\{(\\w+)\\})?` \\| (\\w+) \\| ([^|]+) \\| ([^|]+) \\|").FindAllStringSubmatch(page, -1) {
		name, label, kind, unit := m[1], m[2], m[3], m[4]
		if told[name] {
			t.Errorf("%s is told twice", name)
		}
		told[name] = true
		if shown[name] != kind || labels[name] != label {
			t.Errorf("%s is a %s with the label %q, and a server shows a %q with %q", name, kind, label, shown[name], labels[name])
		}
		stem := strings.TrimSuffix(name, "_total")
		if strings.HasSuffix(stem, "_seconds") != (unit == "s") || strings.HasSuffix(stem, "_bytes") != (unit == "B") {
			t.Errorf("the unit of %s is %q", name, unit)
		}
		if strings.HasSuffix(name, "_total") != (kind == "counter") {
			t.Errorf("%s is a %s", name, kind)
		}
	}
	for _, m := range regexp.MustCompile("`(process_\\w+|go_\\w+)`").FindAllStringSubmatch(page, -1) {
		if shown[m[1]] == "" {
			t.Errorf("no server shows %s", m[1])
		}
	}
	for name := range shown {
		if strings.HasPrefix(name, "noipchat_") && !told[name] {
			t.Errorf("%s is not told", name)
		}
	}
	if len(told) < 50 {
		t.Errorf("only %d metrics are told", len(told))
	}
}
