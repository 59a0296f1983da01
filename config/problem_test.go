package config_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/config"
)

func TestManyProblemsAreBounded(t *testing.T) {
	path := write(t, map[string]string{"fairlead.toml": strings.Repeat("x = 1\n", 1000)})
	_, err := config.Load(path, nil)
	var found config.Problems
	if !errors.As(err, &found) || len(found) != 201 {
		t.Fatalf("got %d problems", len(found))
	}
	if last := found[200].Message; last != "and 800 more mistakes, here and elsewhere" {
		t.Errorf("got %q", last)
	}
}

// TestManyPortsAreBounded: ranges of a few bytes must not become more than a host has.
func TestManyPortsAreBounded(t *testing.T) {
	var text strings.Builder
	for i := range 66 {
		fmt.Fprintf(&text, "[[endpoint]]\nname = 'x%d'\npublish = ['1-1024']\n", i)
	}
	got := problems(t, write(t, map[string]string{"fairlead.toml": text.String()}))
	if want := "fairlead.toml:195:12: endpoint.publish: more than 65536 ports in all"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestBestEffort: with problems elsewhere, the socket of a running daemon is still found.
func TestBestEffort(t *testing.T) {
	path := write(t, map[string]string{"fairlead.toml": "[node]\nrun_dir = '/run/other'\n[bgp]\nasn = -1\n"})
	c, err := config.Load(path, nil)
	if err == nil || c.API.Socket != "/run/other/fairlead.sock" || c.File != path {
		t.Errorf("got socket %q of %q, error %v", c.API.Socket, c.File, err)
	}
}

// TestHostileFiles are half as large as a file may be, and made to be slow to read or deep to walk.
func TestHostileFiles(t *testing.T) {
	for name, unit := range map[string]string{
		"open brackets": "[", "open tables": "a={", "nested arrays": "a=[[[[", "unknown keys": "ab=1\n", "long key": "k",
		"pools": "[[pool]]\n", "endpoints": "[[endpoint]]\n", "ports": "[[endpoint]]\npublish=['1-999:1-999','1-999']\n", "peers": "[[bgp.peer]]\n", "same key": "log.level=''\n", "headers": "[log]\n", "dots": "a.",
		"open strings": "a=\"\"\"\n", "open arrays": "a=[\"\",\n", "bad lines": "=\n", "nothing": "\x00", "list": "a=[\n1\n2\n",
	} {
		text := strings.Repeat(unit, 1<<19/len(unit))
		path := write(t, map[string]string{"fairlead.toml": text, "conf.d/a.toml": "[bgp.peer.x]\ny=" + text[:1<<18]})
		if got := problems(t, path); got == "" || len(got) > 1<<17 {
			t.Errorf("%s: got %d bytes of problems", name, len(got))
		}
	}
}
