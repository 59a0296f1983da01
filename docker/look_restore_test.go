package docker

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/agent"
)

// lookRecorded answers as an engine did, but for its drivers' names and gateways: the recorded networks are bridges.
func lookRecorded(t *testing.T, version, name string) http.Handler {
	h := recorded(t, version)
	replace := strings.NewReplacer(
		`"Driver": "bridge"`, `"Driver": "`+name+`"`, `"Driver": "default"`, `"Driver": "`+name+`"`,
		`"10.77.0.64"`, `"169.254.88.1"`, `"10.78.0.3"`, `"169.254.88.2"`, `"fd00:78::1"`, `"fe80::58:1"`,
	)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := httptest.NewRecorder()
		h.ServeHTTP(answer, r)
		w.WriteHeader(answer.Code)
		var text bytes.Buffer
		_, _ = replace.WriteString(&text, answer.Body.String())
		_, _ = w.Write(text.Bytes())
	})
}

// TestLookRestores has engines of all ages remember networks that the daemon has lost. The driver has another name there.
func TestLookRestores(t *testing.T) {
	// The third of the recorded networks is none that the driver can have. Of gateways, engines tell those that the user chose and, if they
	// are old or the network leads outside, those that containers have; another is chosen for the rest.
	cases := map[string][]string{
		"20.10": {
			"gateway 169.254.88.1", "gateway 169.254.88.2", "gateway fe80::58:1", "lease 10.77.0.10", "lease 10.77.0.9",
			`network 8133 "" 10.77.0.0/24 via 169.254.88.1 mtu=1400 internal=false`,
			`network b5e5 "" 10.78.0.0/24 via 169.254.88.2 fd00:78::/64 via fe80::58:1 mtu=0 internal=true`,
		},
		"28": {
			"gateway 169.254.88.1", "gateway 169.254.88.2", "gateway fe80::90:1", "lease 10.77.0.10", "lease 10.77.0.9",
			`network 7db6 "" 10.77.0.0/24 via 169.254.88.1 mtu=1400 internal=false`,
			`network 0888 "" 10.78.0.0/24 via 169.254.88.2 fd00:78::/64 via fe80::90:1 mtu=0 internal=true`,
		},
		"29": {
			"gateway 169.254.88.2", "gateway 169.254.90.1", "gateway fe80::90:1", "lease 10.77.0.10", "lease 10.77.0.9",
			`network 7db6 "" 10.77.0.0/24 via 169.254.90.1 mtu=1400 internal=false`,
			`network 0888 "" 10.78.0.0/24 via 169.254.88.2 fd00:78::/64 via fe80::90:1 mtu=0 internal=true`,
		},
	}
	for version, want := range cases {
		t.Run(version, func(t *testing.T) {
			w := newLookWorld(t)
			w.serve(lookRecorded(t, version, "mine"), "mine")
			if err := w.look(); err != nil {
				t.Fatal(err)
			}
			w.holds("at first", "lease 10.77.0.10", "lease 10.77.0.9")
			w.pass(5)
			slices.Sort(want)
			w.holds("the next time", want...)
			if text := w.log.String(); strings.Count(text, "network restored") != 2 || !strings.Contains(text, "restore network auto: subnet 172.17.0.0/16 lies in no [[pool]]") {
				t.Errorf("log\n%s", text)
			}
			w.pass(60)
			for i := range want {
				want[i] = strings.Replace(strings.Replace(want[i], `"" 10.77`, `"apps" 10.77`, 1), `"" 10.78`, `"inner" 10.78`, 1)
			}
			w.holds("later, by name", want...)
		})
	}
}

// TestLookRestoresNot leaves what another made, and what can not be made.
func TestLookRestoresNot(t *testing.T) {
	cases := []struct {
		name   string
		change func(n *engineNetwork)
		log    string // "" nothing
	}{
		{"another driver", func(n *engineNetwork) { n.Driver = "fairlead2" }, ""},
		{"another address driver", func(n *engineNetwork) { n.IPAM.Driver = "default" }, `its IPAM driver is \"default\" and not \"fairlead\"`},
		{"a gateway of the subnet", func(n *engineNetwork) {
			n.IPAM.Config[0].Gateway = engineAddress{netip.MustParseAddr("10.88.0.1")}
		}, "gateway 10.88.0.1 is not link-local"},
		{"no subnet", func(n *engineNetwork) { n.IPAM.Config = nil }, "the network has no subnet"},
		{"a subnet that is none", func(n *engineNetwork) { n.IPAM.Config[0].Subnet = "apps" }, "subnet: "},
		{"a bad option", func(n *engineNetwork) { n.Options = map[string]string{"fairlead.nat": "perhaps"} }, "fairlead.nat=perhaps"},
		{"a bad ID", func(n *engineNetwork) { n.ID = "../containers/json" }, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newLookWorld(t)
			n := dockerNetwork("a1", "apps", "10.88.0.0/16")
			c.change(&n)
			w.docker.networks = []engineNetwork{n}
			if c.name == "a bad ID" {
				if err := w.look(); err == nil {
					t.Error("an ID that leads elsewhere is followed")
				}
			} else {
				w.pass(60)
			}
			w.holds("after a minute")
			if text := w.log.String(); c.log == "" && strings.Contains(text, "can not be followed") || !strings.Contains(text, c.log) {
				t.Errorf("log: want %q\n%s", c.log, text)
			}
		})
	}
}

// TestLookRemoved sees a network between Docker's call to forget it and Docker's own list.
func TestLookRemoved(t *testing.T) {
	w := shop(t)
	w.docker.networks = append(w.docker.networks, dockerNetwork("a2", "more", "10.88.0.0/16"))
	w.host.gateways[netip.MustParseAddr("169.254.88.2")] = true // perhaps of the other network: not released
	for range 20 {
		if err := w.look(); err != nil {
			t.Fatal(err)
		}
		w.now = w.now.Add(lookAgain / 10)
		w.docker.change(func() { w.docker.networks = w.docker.networks[:1] })
	}
	w.holds("ten seconds later", shopLines("gateway 169.254.88.2")...)
}

// TestLookGatewayOfLost keeps a gateway that has no network as long as a network that Docker has may be its.
func TestLookGatewayOfLost(t *testing.T) {
	w := shop(t)
	n := dockerNetwork("a2", "more", "10.88.0.0/16")
	n.IPAM.Driver = "default" // and it can not be restored
	w.docker.networks = append(w.docker.networks, n)
	w.host.gateways[netip.MustParseAddr("169.254.88.2")] = true
	w.pass(60)
	w.holds("with the network", shopLines("gateway 169.254.88.2")...)
	w.docker.change(func() { w.docker.networks = w.docker.networks[:1] })
	w.pass(60)
	w.holds("without it", shopLines()...)
}

// TestLookLearns tells what engines of all ages say of containers.
func TestLookLearns(t *testing.T) {
	inner := map[string]string{"20.10": "b5e5f7cfe98f32d13f6dbcc8ac635c5457496df086f3f8468dbcf71cc02a05b9", "28": "0888e1a06172efc840d3cd24e9700566069f5e55e78aa1adbc901cf7438a19e3"}
	endpoints := map[string]string{"20.10": "302433cce6594b40293524a290100b8579ced64fcd7d8b7528535ed1cbba3279", "28": "01055de35e6022e06a4e3244522595ffc68d8adffc40cfcc5503e52bcaeb1806"}
	ids := map[string]string{"20.10": "c89cfb973acbd2f668a76cb9a04a33d35db771f42e621d4f43512d5a4ec162ab", "28": "70acc9be357789dc3b33c57d0aef79357200b69b38d5aab5b59177e329eea983"}
	for version, id := range endpoints {
		t.Run(version, func(t *testing.T) {
			w := newLookWorld(t)
			w.serve(lookRecorded(t, version, "fairlead"), "fairlead")
			w.host.networks[inner[version]] = agent.Network{ID: inner[version]}
			w.host.guests[id] = agent.Guest{ID: id, Network: inner[version], Addresses: lookAddresses("10.78.0.1", "fd00:78::2")}
			if err := w.look(); err != nil {
				t.Fatal(err)
			}
			want := map[string]agent.Told{id: {ID: id, Network: inner[version], Container: "web", Labels: map[string]string{
				"docker.id": ids[version], "docker.image": "bb", "docker.name": "web", "tier": "front",
				"com.docker.compose.project": "shop", "com.docker.compose.service": "web",
			}}}
			if diff := cmp.Diff(want, w.host.told); diff != "" {
				t.Errorf("told (-want +got)\n%s", diff)
			}
			if name := w.host.networks[inner[version]].Name; name != "inner" {
				t.Errorf("the network is called %q", name)
			}
		})
	}
}
