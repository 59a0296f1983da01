package bgp_test

import (
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/fairlead-net/fairlead/bgp"
)

func TestWrongConfigIsRefused(t *testing.T) {
	cases := []struct {
		name  string
		spoil func(*bgp.Config)
		want  string
	}{
		{"no asn", func(c *bgp.Config) { c.ASN, c.Peers[0].ASN = 0, 0 }, "asn is 0"},
		{"no address", func(c *bgp.Config) { c.Listen = netip.Addr{} }, "no listen address"},
		{"no identifier", func(c *bgp.Config) { c.Listen = addr("0.0.0.0") }, "router id 0.0.0.0"},
		{"short hold time", func(c *bgp.Config) { c.HoldTime = time.Second }, "hold time 1s"},
		{"broken hold time", func(c *bgp.Config) { c.HoldTime = 3500 * time.Millisecond }, "hold time 3.5s"},
		{"negative hold time", func(c *bgp.Config) { c.HoldTime = -time.Second }, "hold time -1s"},
		{"peer's hold time", func(c *bgp.Config) { c.Peers[0].HoldTime = 2 * time.Second }, "peer 192.0.2.2: hold time 2s"},
		{"long restart", func(c *bgp.Config) { c.RestartTime = 2 * time.Hour }, "restart time 2h"},
		{"limit", func(c *bgp.Config) { c.MaxPrefixes = -1 }, "max prefixes -1"},
		{"peer's limit", func(c *bgp.Config) { c.Peers[0].MaxPrefixes = -1 }, "max prefixes -1"},
		{"ourselves", func(c *bgp.Config) { c.Peers[0].Address = c.Listen }, "our own address"},
		{"mapped", func(c *bgp.Config) { c.Peers[0].Address = addr("::ffff:192.0.2.2") }, "not the address of a neighbour"},
		{"twice", func(c *bgp.Config) { c.Peers = append(c.Peers, c.Peers[0]) }, "there twice"},
		{"role", func(c *bgp.Config) { c.Peers[0].Role = "spine" }, `role "spine"`},
		{"mesh of another AS", func(c *bgp.Config) { c.Peers[0].ASN = 1 }, "mesh peer"},
		{"password", func(c *bgp.Config) { c.Peers[0].Password = strings.Repeat("x", 81) }, "longer than 80 bytes"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			cfg := mesh("192.0.2.1", "192.0.2.2")
			c.spoil(&cfg)
			_, err := bgp.Start(cfg, slog.New(slog.DiscardHandler))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Start: %v, want %q", err, c.want)
			}
		})
	}
}

// freePort is one that nobody listens on now; these tests run on the host itself.
func freePort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

func TestAddressThatIsNotOursIsRefused(t *testing.T) {
	_, err := bgp.Start(mesh("192.0.2.1"), slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "listen on 192.0.2.1:179: cannot assign requested address") {
		t.Errorf("Start: %v", err)
	}
}

func TestWrongAnnouncementIsRefusedAndHarmless(t *testing.T) {
	cfg := mesh("127.0.0.1")
	cfg.Port = freePort(t)
	s, err := bgp.Start(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for want, all := range map[string][]bgp.Announcement{
		"is not a prefix":             {{Prefix: netip.MustParsePrefix("10.88.1.1/24"), NextHop: addr("192.0.2.1")}},
		"invalid Prefix":              {{NextHop: addr("192.0.2.1")}},
		"can not be a next hop":       {{Prefix: netip.MustParsePrefix("10.88.1.0/24")}},
		"can not have two next hops,": {ann("10.88.1.0/24", "192.0.2.1"), ann("10.88.1.0/24", "192.0.2.2")},
		"is no set of tunnel types":   {accepting(0x80, "10.88.1.0/24", "192.0.2.1")},
		"can not accept two sets of tunnels, 4 and 6": {
			accepting(bgp.VXLAN, "10.88.1.0/24", "192.0.2.1"), accepting(bgp.VXLAN|bgp.IPIP, "10.88.1.0/24", "192.0.2.1"),
		},
	} {
		if err := s.Announce(all); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Announce(%v): %v, want %q", all, err, want)
		}
	}
	if routes, complete := s.Routes(); len(routes) > 0 || !complete {
		t.Errorf("alone: %v, complete %v", routes, complete)
	}
}

// TestCloseEndsWhatWeStarted: GoBGP itself runs until the process ends.
func TestCloseEndsWhatWeStarted(t *testing.T) {
	cfg := mesh("127.0.0.1")
	cfg.Port = freePort(t)
	s, err := bgp.Start(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Announce([]bgp.Announcement{ann("10.88.1.0/24", "192.0.2.1")}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	theirs := goleak.IgnoreAnyFunction
	goleak.VerifyNone(t,
		theirs("github.com/osrg/gobgp/v3/pkg/server.(*BgpServer).Serve"),
		theirs("github.com/osrg/gobgp/v3/pkg/server.newTCPListener.func2"),
		theirs("github.com/eapache/channels.(*InfiniteChannel).infiniteBuffer"),
		theirs("testing.(*T).Run"), theirs("testing.(*T).Parallel"))
}
