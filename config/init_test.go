package config_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/config"
)

func TestInit(t *testing.T) {
	text := config.Init(config.Facts{
		Name:    "node-a",
		Address: netip.MustParseAddr("192.0.2.1"),
		Pools:   []netip.Prefix{netip.MustParsePrefix("10.88.0.0/16"), netip.MustParsePrefix("2001:db8:88::/64")},
		Peers:   []netip.Addr{netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3")},
	})
	c := load(t, text)
	if c.Node.Name != "node-a" || c.Node.Address != netip.MustParseAddr("192.0.2.1") {
		t.Errorf("got node %+v", c.Node)
	}
	if len(c.Pools) != 2 || c.Pools[0].Name != "default" || c.Pools[1].Name != "default6" {
		t.Errorf("got pools %+v", c.Pools)
	}
	if len(c.BGP.Peers) != 2 || c.BGP.Peers[1].Address != netip.MustParseAddr("192.0.2.3") {
		t.Errorf("got peers %+v", c.BGP.Peers)
	}
}

func TestInitOfNothingIsTheDefault(t *testing.T) {
	if changes := config.Changed(load(t, ""), load(t, config.Init(config.Facts{}))); len(changes) != 0 {
		t.Errorf("got %v", changes)
	}
}

// TestInitQuotes gives a name that no host has: it must come back as it is, in the complaint about it.
func TestInitQuotes(t *testing.T) {
	path := write(t, map[string]string{"fairlead.toml": config.Init(config.Facts{Name: "a\"\n[log]\\é\x00"})})
	if got := problems(t, path); !strings.Contains(got, `node.name: "a\"\n[log]\\é\x00" is not a name`) || strings.Contains(got, "\n") {
		t.Errorf("got %s", got)
	}
}

func example(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../config.example.toml")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestExampleIsTheDefault(t *testing.T) {
	if changes := config.Changed(load(t, ""), load(t, example(t))); len(changes) != 0 {
		t.Errorf("config.example.toml differs from the defaults: %v", changes)
	}
}

// TestExampleIsComplete takes the '#' away from the examples, and finds every key of the contract.
func TestExampleIsComplete(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "bgp.secret")
	if err := os.WriteFile(secret, []byte("sesame\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	text := regexp.MustCompile(`(?m)^#([a-z_]+ = |\[)`).ReplaceAllString(example(t), "$1")
	text = strings.ReplaceAll(text, "/etc/fairlead/bgp.secret", secret)
	c := load(t, text)
	if len(c.BGP.Peers) != 1 || !c.Node.Address.IsValid() || c.NAT.PortRange.First == 0 || len(c.Endpoints) != 1 || len(c.Endpoints[0].Publish) != 3 || c.Docker.Enable != config.On {
		t.Errorf("an example was not read: %+v", c)
	}

	keys, at := []string{}, ""
	for line := range strings.Lines(text) {
		if m := regexp.MustCompile(`^\[+([a-z.]+)\]`).FindStringSubmatch(line); m != nil {
			at = m[1] + "."
		}
		if m := regexp.MustCompile(`^([a-z_]+) = `).FindStringSubmatch(line); m != nil {
			keys = append(keys, at+m[1])
		}
	}
	slices.Sort(keys)
	if diff := cmp.Diff(contract(), keys); diff != "" {
		t.Errorf("contract -, example +:\n%s", diff)
	}
}
