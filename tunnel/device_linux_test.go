package tunnel_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/reconcile"
	"github.com/fairlead-net/fairlead/tunnel"
)

func TestDeviceIsMadeAndGoes(t *testing.T) {
	h := newHost(t)
	before := world(h.Host)
	withDevices(t, h)
	for name, local := range map[string]string{tunnel.DeviceVXLAN: "local 192.0.2.1", tunnel.DeviceVXLAN6: "local 2001:db8:1::1"} {
		said := h.IP("-d link show dev " + name)
		for _, part := range []string{"vxlan id 88", local, "dstport 4789", "nolearning", "LOWER_UP", "addrgenmode none"} {
			if !strings.Contains(said, part) {
				t.Errorf("%s has no %q:\n%s", name, part, said)
			}
		}
	}
	settle(t, h.k.Devices(), map[string]tunnel.Device{})
	if diff := cmp.Diff(before, world(h.Host)); diff != "" {
		t.Errorf("kernel after the devices are deleted:\n%s", diff)
	}
	must(t, h.k.Devices().Delete(t.Context(), tunnel.DeviceVXLAN))
}

func TestDriftOfDevices(t *testing.T) {
	h := newHost(t)
	index := func() string { return strings.SplitN(h.IP("link show dev flvxlan"), ":", 2)[0] }
	create := "link add flvxlan address 02:46:c0:00:02:01 mtu 1450 up type vxlan nolearning local 192.0.2.1 "
	for name, c := range map[string]struct {
		hands []string
		anew  bool
	}{
		"mtu":       {[]string{"link set flvxlan mtu 1300"}, false},
		"mac":       {[]string{"link set flvxlan address 02:00:00:00:00:01"}, false},
		"down":      {[]string{"link set flvxlan down"}, false},
		"mtu, down": {[]string{"link set flvxlan mtu 1200 down"}, false},
		"address":   {[]string{"-4 addr flush dev flvxlan"}, false},
		"deleted":   {[]string{"link del flvxlan"}, true},
		"learning":  {[]string{"link set flvxlan type vxlan learning"}, true},
		"local":     {[]string{"link del flvxlan", strings.Replace(create, ".2.1", ".2.9", 1) + "id 88 dstport 4789"}, true},
		"vni":       {[]string{"link del flvxlan", create + "id 89 dstport 4789"}, true},
		"port":      {[]string{"link del flvxlan", create + "id 88 dstport 8472"}, true},
		"remote":    {[]string{"link del flvxlan", create + "id 88 dstport 4789 remote 198.51.100.9"}, true},
		"bound":     {[]string{"link del flvxlan", create + "id 88 dstport 4789 dev uplink"}, true},
		"kind":      {[]string{"link del flvxlan", "link add flvxlan type bridge"}, true},
		"external":  {[]string{"link del flvxlan", "link add flvxlan type vxlan external dstport 4789"}, true},
		"enslaved":  {[]string{"link add br0 type bridge", "link set flvxlan master br0"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			withDevices(t, h)
			was := index()
			for _, hand := range c.hands {
				h.IP(hand)
			}
			withDevices(t, h)
			if anew := index() != was; anew != c.anew {
				t.Errorf("made anew: %v, want %v", anew, c.anew)
			}
		})
	}
}

func TestClashOfDevicesNamesTheOther(t *testing.T) {
	h := newHost(t)
	h.IP("link add calico type vxlan id 88 dstport 4789 nolearning local 192.0.2.1")
	err := h.k.Devices().Put(t.Context(), tunnel.DeviceVXLAN, device("192.0.2.1"))
	if !errors.Is(err, unix.EEXIST) || !strings.Contains(err.Error(), "VNI 88 on UDP port 4789 is taken by device calico") {
		t.Errorf("put beside a device with the same VNI and port: %v", err)
	}
	h.IP("link del calico")
	if err := h.k.Devices().Put(t.Context(), tunnel.DeviceVXLAN, device("192.0.2.1")); err != nil {
		t.Errorf("put when the other is gone: %v", err)
	}
}

func TestNeighboursAndForwardingEntriesComeBackAsTheyWerePut(t *testing.T) {
	h := routeHost(t)
	neighbours, fdb := neighbourCases()
	before := world(h.Host)
	settle(t, h.k.Neighbours(), neighbours)
	settle(t, h.k.FDB(), fdb)
	settle(t, h.k.Neighbours(), map[tunnel.NeighKey]tunnel.MAC{})
	settle(t, h.k.FDB(), map[tunnel.FDBKey]netip.Addr{})
	if diff := cmp.Diff(before, world(h.Host)); diff != "" {
		t.Errorf("kernel after all is deleted:\n%s", diff)
	}
	for k := range neighbours {
		must(t, h.k.Neighbours().Delete(t.Context(), k))
	}
	for k := range fdb {
		must(t, h.k.FDB().Delete(t.Context(), k))
	}
}

func neighbourCases() (map[tunnel.NeighKey]tunnel.MAC, map[tunnel.FDBKey]netip.Addr) {
	far4, far6 := addr("198.51.100.3"), addr("2001:db8:2::3")
	mac4, mac6 := tunnel.VTEPMAC(far4), tunnel.VTEPMAC(far6)
	neighbours := map[tunnel.NeighKey]tunnel.MAC{
		{Dev: tunnel.DeviceVXLAN, IP: far4}:                   mac4,
		{Dev: tunnel.DeviceVXLAN, IP: tunnel.LinkLocal(far4)}: mac4,
		{Dev: tunnel.DeviceVXLAN6, IP: far6}:                  mac6,
		{Dev: "fl0123456789", IP: addr("10.88.1.7")}:          {2, 3, 4, 5, 6, 7},
		{Dev: "fl0123456789", IP: addr("2001:db8:88::7")}:     {2, 3, 4, 5, 6, 7},
	}
	fdb := map[tunnel.FDBKey]netip.Addr{{Dev: tunnel.DeviceVXLAN, MAC: mac4}: far4, {Dev: tunnel.DeviceVXLAN6, MAC: mac6}: far6}
	return neighbours, fdb
}

func TestDriftOfNeighboursIsMendedAndForeignOnesStay(t *testing.T) {
	h := routeHost(t)
	neighbours, fdb := neighbourCases()
	h.IP("neigh add 192.0.2.50 lladdr 02:00:00:00:00:50 dev uplink nud permanent")
	h.IP("neigh add 10.88.1.99 lladdr 02:00:00:00:00:50 dev peer nud permanent")
	settle(t, h.k.Neighbours(), neighbours)
	settle(t, h.k.FDB(), fdb)
	foreign := h.IP("neigh show dev uplink nud permanent") + h.IP("neigh show dev peer nud permanent")
	mac := tunnel.VTEPMAC(addr("198.51.100.3")).String()
	for _, hand := range []string{
		"ip neigh del 198.51.100.3 dev flvxlan",
		"ip neigh replace 198.51.100.3 lladdr 02:00:00:00:00:66 dev flvxlan nud permanent",
		"ip neigh replace 198.51.100.3 lladdr " + mac + " dev flvxlan nud reachable",
		"ip neigh flush dev fl0123456789 nud permanent",
		"ip neigh add 10.88.1.8 lladdr 02:00:00:00:00:66 dev fl0123456789 nud permanent",
		"bridge fdb del " + mac + " dev flvxlan self",
		"bridge fdb replace " + mac + " dev flvxlan dst 198.51.100.66 self permanent",
		"bridge fdb replace " + mac + " dev flvxlan dst 198.51.100.3 port 8472 self permanent",
		"bridge fdb append 00:00:00:00:00:00 dev flvxlan dst 198.51.100.66 self permanent",
		"bridge fdb add 02:00:00:00:00:66 dev flvxlan dst 198.51.100.66 self permanent",
		"ip link set fl0123456789 down",
	} {
		h.Run(strings.Fields(hand)...)
		if strings.HasSuffix(hand, "down") {
			h.IP("link set fl0123456789 up")
		}
		settle(t, h.k.Neighbours(), neighbours)
		settle(t, h.k.FDB(), fdb)
	}
	if now := h.IP("neigh show dev uplink nud permanent") + h.IP("neigh show dev peer nud permanent"); now != foreign {
		t.Errorf("foreign neighbours: %s, were %s", now, foreign)
	}
}

func TestEntriesOnAMissingDeviceWait(t *testing.T) {
	h := newHost(t)
	neighbours, fdb := neighbourCases()
	for k, err := range h.k.Neighbours().Apply(t.Context(), neighbours, nil) {
		if !errors.Is(err, reconcile.ErrWaits) {
			t.Errorf("put neighbour %v: %v", k, err)
		}
		must(t, h.k.Neighbours().Delete(t.Context(), k))
	}
	for k, err := range h.k.FDB().Apply(t.Context(), fdb, nil) {
		if !errors.Is(err, reconcile.ErrWaits) {
			t.Errorf("put forwarding entry %v: %v", k, err)
		}
		must(t, h.k.FDB().Delete(t.Context(), k))
	}
}
