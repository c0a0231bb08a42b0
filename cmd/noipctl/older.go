package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/noipchat/noipchat/cmd/cli"
	"github.com/noipchat/noipchat/daemon/config"
	"github.com/noipchat/noipchat/daemon/message"
)

// maxOlder bounds the files of the older server, in bytes.
const maxOlder = 1 << 20

// olderServer is the Config.xml of the .NET server.
type olderServer struct {
	XMLName    xml.Name         `xml:"Configuration"`
	Name       string           `xml:"Server>Name"`
	Interfaces []olderInterface `xml:"Server>Interfaces>Interface"`
	Logfile    string           `xml:"Server>Logfile"`
}

type olderInterface struct {
	InterfaceIP string // of this machine
	IP          string // that others use
	Port        uint16
}

// olderPeer is an element of its Servers.json.
type olderPeer struct {
	Name       string
	LocalIP    string
	RemoteIP   string
	RemotePort uint16
	TimeOut    int64 // seconds; 0: never
}

// takeOlder takes the configuration of an older server for the answers: Config.xml, and
// Servers.json beside it, if that is there. Its keys and users are of another kind, and
// stay where they are.
func (s *setup) takeOlder(path string) error {
	text, err := readBounded(path)
	if err != nil {
		return err
	}
	if err := s.parseOlder(text); err != nil {
		return bad(path, err)
	}
	path = filepath.Join(filepath.Dir(path), "Servers.json")
	text, err = readBounded(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		if err = s.parseOlderPeers(text); err != nil {
			return bad(path, err)
		}
	}
	return err
}

func bad(path string, err error) error {
	return &cli.Error{Code: cli.ExitConfig, Err: fmt.Errorf("%s: %w", path, err), Hint: "mend it there, or answer the questions without --from"}
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxOlder+1))
	if err == nil && len(text) > maxOlder {
		err = bad(path, errors.New("larger than 1 MiB"))
	}
	return text, err
}

func (s *setup) parseOlder(text []byte) error {
	var o olderServer
	if err := xml.Unmarshal(text, &o); err != nil {
		return err
	}
	name := strings.ToLower(strings.TrimSpace(o.Name))
	if err := message.CheckName(name); err != nil {
		return fmt.Errorf("its Name: %w", err)
	}
	var interfaces []config.Interface
	for n, i := range o.Interfaces {
		bind, err := olderAddress(i.InterfaceIP, i.Port)
		var public string
		if err == nil {
			public, err = olderAddress(i.IP, i.Port)
		}
		if err != nil {
			return fmt.Errorf("interface %d: %w", n+1, err)
		}
		v := config.Interface{Kind: "tcp", Bind: bind}
		if public != bind {
			v.Public = []string{public}
		}
		interfaces = append(interfaces, v)
	}
	if len(interfaces) == 0 {
		return errors.New("it has no Interface")
	}
	s.name, s.interfaces = name, interfaces
	if o.Logfile != "" {
		s.log = logFile // the service may write nowhere else
	}
	return nil
}

func olderAddress(ip string, port uint16) (string, error) {
	a, err := netip.ParseAddr(strings.TrimSpace(ip))
	if err != nil || port == 0 {
		return "", fmt.Errorf("%.60q with port %d: want an IP address and a port", ip, port)
	}
	return netip.AddrPortFrom(a.Unmap(), port).String(), nil
}

func (s *setup) parseOlderPeers(text []byte) error {
	var all []olderPeer
	if err := json.Unmarshal(bytes.TrimPrefix(text, []byte("\ufeff")), &all); err != nil { // .NET writes a byte order mark
		return err
	}
	links := map[string]string{}
	var names []string
	for n, p := range all {
		name := strings.ToLower(strings.TrimSpace(p.Name))
		if err := message.CheckName(name); err != nil {
			s.leftOut = append(s.leftOut, fmt.Sprintf("server %d of Servers.json is left out, the others are taken: %v", n+1, err))
			continue
		}
		if name == s.name {
			continue // lists were copied from server to server
		}
		remote, err := olderAddress(p.RemoteIP, p.RemotePort)
		if err == nil && (p.TimeOut < 0 || p.TimeOut > int64(52*7*24*time.Hour/time.Second)) {
			err = fmt.Errorf("TimeOut %d: want seconds, or 0", p.TimeOut)
		}
		local, localErr := netip.ParseAddr(strings.TrimSpace(p.LocalIP))
		if err == nil && p.LocalIP != "" && localErr != nil {
			err = fmt.Errorf("LocalIP: %w", localErr)
		}
		if err != nil {
			return fmt.Errorf("server %s: %w", name, err)
		}
		if links[name] == "" {
			names = append(names, name)
		}
		links[name] += "\n[[peer.link]]\n"
		if p.LocalIP != "" && !local.IsUnspecified() {
			links[name] += fmt.Sprintf("local = %q\n", local.Unmap())
		}
		links[name] += fmt.Sprintf("remote = %q\ntimeout = %q\n", remote, config.Duration(time.Duration(p.TimeOut)*time.Second))
	}
	for _, name := range names {
		s.peers[peerPath(s.path, name)] = sealed(peerHead(name) + links[name])
	}
	return nil
}
