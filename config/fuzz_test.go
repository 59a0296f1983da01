package config_test

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/fairlead-net/fairlead/config"
	"github.com/fairlead-net/fairlead/nat"
)

// FuzzLoad reads any file, drop-in and variable. Whatever they hold, the answer is a config to run by, or problems that
// each stand in one line and name a place that exists.
func FuzzLoad(f *testing.F) {
	archives, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range archives {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range archive.Files {
			f.Add(file.Data, []byte("[log]\nlevel = 'info'\n"), "FAIRLEAD_LOG_LEVEL=warn")
		}
	}
	f.Add([]byte(full), []byte(full), "FAIRLEAD_BGP_ASN=64513")
	f.Add([]byte("endpoint=[{name='a',publish=['1-9:1-9','5-7:80']}]"), []byte("[[endpoint]]\nname='b'\npublish=['[::1]:5:5/udp','127.0.0.1:1:1']\n"), "")
	f.Add([]byte("\xef\xbb\xbfa=1"), []byte("a=\"\xff\""), "FAIRLEAD_\xff=\x00")
	f.Add([]byte("a=[\n\"\"\"\n"), []byte("\r"), "=")
	f.Add([]byte("[bgp]\npeer=[{},{address='192.0.2.2',address=1}]"), []byte("[[bgp.peer]]\n[bgp]\nbgp.peer=1"), "")

	dir := f.TempDir()
	main, dropIn := filepath.Join(dir, "fairlead.toml"), filepath.Join(dir, "conf.d", "a.toml")
	if err := os.Mkdir(filepath.Dir(dropIn), 0o700); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, first, second []byte, variable string) {
		for path, text := range map[string][]byte{main: first, dropIn: second} {
			if err := os.WriteFile(path, text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		c, err := config.Load(main, []string{variable})
		if err == nil {
			sound(t, c)
			return
		}
		var found config.Problems
		if !errors.As(err, &found) || len(found) == 0 {
			t.Fatalf("want problems, got %v", err)
		}
		lines := map[string]int{main: lineCount(first), dropIn: lineCount(second)}
		for _, p := range found {
			located(t, p, lines)
		}
	})
}

func lineCount(text []byte) int { return strings.Count(string(text), "\n") + 1 }

// sound looks for what the daemon relies on.
func sound(t *testing.T, c config.Config) {
	t.Helper()
	if len(c.Pools) == 0 || c.Node.Name == "" || c.API.Socket == "" || c.BGP.HoldTime < 3e9 || c.Reconcile.Interval <= 0 || c.BGP.ASN == 0 {
		t.Errorf("no config to run by: %+v", c)
	}
	for i, p := range c.Pools {
		if !p.CIDR.IsValid() || p.CIDR.Masked() != p.CIDR || p.Block.IsValid() && !p.CIDR.Overlaps(p.Block) {
			t.Errorf("no pool to use: %+v", p)
		}
		for _, q := range c.Pools[:i] {
			if p.CIDR.Overlaps(q.CIDR) || p.Name == q.Name {
				t.Errorf("pools overlap: %+v and %+v", p, q)
			}
		}
	}
	distinct(t, c.Endpoints)
	seen := map[string]bool{}
	for _, p := range c.BGP.Peers {
		if !p.Address.IsValid() || seen[p.Address.String()] || p.ASN == 0 || p.Role == "" {
			t.Errorf("no peer to talk to: %+v", p)
		}
		seen[p.Address.String()] = true
	}
	if changes := config.Changed(c, c); len(changes) != 0 {
		t.Errorf("a config differs from itself: %v", changes)
	}
}

// distinct looks for endpoints of the same name, and ports of the host that two of them were given.
func distinct(t *testing.T, endpoints []config.Endpoint) {
	t.Helper()
	names, fixed := map[string]bool{}, []nat.Port{}
	for _, e := range endpoints {
		if e.Name == "" || names[e.Name] {
			t.Errorf("no endpoint to name: %+v", e)
		}
		names[e.Name] = true
		for _, s := range e.Publish {
			if again, err := nat.ParseSpec(s.String()); err != nil || len(again) != 1 || again[0] != s {
				t.Errorf("no port to publish: %+v", s)
			}
			switch {
			case s.HostPort == 0 || s.HostPort != s.HostLast:
			case s.HostIP.IsValid():
				fixed = append(fixed, nat.Port{Proto: s.Proto, IP: s.HostIP, Number: s.HostPort})
			default:
				fixed = append(fixed, nat.Port{Proto: s.Proto, IP: netip.IPv4Unspecified(), Number: s.HostPort},
					nat.Port{Proto: s.Proto, IP: netip.IPv6Unspecified(), Number: s.HostPort})
			}
		}
	}
	for i, p := range fixed[:min(len(fixed), 3000)] {
		if slices.ContainsFunc(fixed[:i], p.Overlaps) {
			t.Errorf("port %s is given twice", p)
		}
	}
}

func located(t *testing.T, p config.Problem, lines map[string]int) {
	t.Helper()
	inFile := p.Line > 0 && p.Line <= lines[p.File] && p.Col > 0
	outside := p.Line == 0 && (p.File == "defaults" || strings.HasPrefix(p.File, "environment:"))
	if !inFile && !outside {
		t.Errorf("no such place: %s", p)
	}
	if p.Message == "" || regexp.MustCompile(`[\x00-\x1f\x7f]`).MatchString(p.String()) {
		t.Errorf("not one line of text: %q", p.String())
	}
}
