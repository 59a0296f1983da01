package config_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/config"
)

func line(c config.Change) string {
	if c.Old == c.New {
		return c.Key + ": " + c.What
	}
	return fmt.Sprintf("%s: %q -> %q", c.Key, c.Old, c.New)
}

func TestChanged(t *testing.T) {
	before := load(t, `
[[pool]]
reserve = ["10.88.0.1"]
[[pool]]
name = "gone"
cidr = "10.89.0.0/16"
[bgp]
asn = 64512
[[bgp.peer]]
address = "192.0.2.2"
[[bgp.peer]]
address = "192.0.2.3"
[[endpoint]]
name = "web"
publish = ["8080:80", "443"]
[[endpoint]]
name = "old"
publish = ["53/udp"]
[[endpoint]]
name = "same"
publish = ["22"]
`)
	after := load(t, `
[[pool]]
name = "blue"
cidr = "10.90.0.0/16"
[[pool]]
reserve = ["10.88.0.1", "10.88.0.2"]
block = "10.88.7.0/24"
[bgp]
asn = 64513
[[bgp.peer]]
address = "192.0.2.4"
[[bgp.peer]]
address = "192.0.2.2"
asn = 64512
role = "leaf"
hold_time = "30s"
[[endpoint]]
name = "same"
publish = ["22/tcp"]
[[endpoint]]
name = "new"
[[endpoint]]
name = "web"
publish = ["[2001:db8::1]:8080-8089:80"]
[nat]
port_range = "30000-32767"
[docker]
api = ""
[api]
metrics = ""
[log]
level = "debug"
`)
	changes := config.Changed(before, after)
	var got []string
	for _, c := range changes {
		got = append(got, line(c))
	}
	want := []string{
		`api.metrics: "127.0.0.1:9478" -> ""`,
		`bgp.asn: "64512" -> "64513"`,
		`bgp.peer.192.0.2.2.hold_time: "9s" -> "30s"`,
		`bgp.peer.192.0.2.2.role: "mesh" -> "leaf"`,
		`bgp.peer.192.0.2.3: removed`,
		`bgp.peer.192.0.2.4: added`,
		`docker.api: "/run/docker.sock" -> ""`,
		`endpoint.new: added`,
		`endpoint.old: removed`,
		`endpoint.web.publish: "[8080:80/tcp 443/tcp]" -> "[[2001:db8::1]:8080-8089:80/tcp]"`,
		`log.level: "INFO" -> "DEBUG"`,
		`nat.port_range: "" -> "30000-32767"`,
		`pool.blue: added`,
		`pool.default.block: "" -> "10.88.7.0/24"`,
		`pool.default.reserve: "[10.88.0.1/32]" -> "[10.88.0.1/32 10.88.0.2/32]"`,
		`pool.gone: removed`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
	if diff := cmp.Diff([]string{"api.metrics", "bgp.asn", "docker.api"}, changes.Restart().Keys()); diff != "" {
		t.Errorf("restart: want -, got +:\n%s", diff)
	}
	if same := config.Changed(after, after); len(same) != 0 {
		t.Errorf("a config differs from itself: %v", same)
	}
}

// TestEveryKeyCanChange compares two configs that have no setting in common.
func TestEveryKeyCanChange(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte("sesame"), 0o600); err != nil {
		t.Fatal(err)
	}
	peer := "\n[[bgp.peer]]\naddress = '192.0.2.2'\n"
	before := load(t, "node.name = 'other'\n[[pool]]\nname = 'blue'\ncidr = '10.88.0.0/24'\n[[endpoint]]\nname = 'web'\n[fastpath]"+peer)
	got := config.Changed(before, load(t, strings.ReplaceAll(full, "SECRET", secret))).Keys()

	var want []string
	for _, key := range contract() {
		switch key {
		case "schema", "tunnel.accept", "bgp.peer.import", "bgp.peer.export", // of one value in this release
			"pool.name", "endpoint.name", "bgp.peer.address": // these are the names of what changes
			continue
		}
		key = strings.Replace(key, "pool.", "pool.blue.", 1)
		key = strings.Replace(key, "endpoint.", "endpoint.web.", 1)
		want = append(want, strings.Replace(key, "bgp.peer.", "bgp.peer.192.0.2.2.", 1))
	}
	want = append(want, "pool.six", "endpoint.dns", "bgp.peer.2001:db8::2")
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
}

func TestChangedPasswordIsNotTold(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	read := func(word string) config.Config {
		if err := os.WriteFile(secret, []byte(word), 0o600); err != nil {
			t.Fatal(err)
		}
		return load(t, "[[bgp.peer]]\naddress = '192.0.2.2'\npassword_file = '"+secret+"'\n")
	}
	changes := config.Changed(read("sesame"), read("poppy"))
	if len(changes) != 1 || line(changes[0]) != "bgp.peer.192.0.2.2.password_file: changed" {
		t.Errorf("got %v", changes)
	}
}
