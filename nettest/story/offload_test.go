package story_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/nettest"
)

const offloaded, summed = "on", "off" // what the kernel says of a device whose checksums are left to the hardware, or are not

// offload is how the host's VXLAN device is, as ethtool sees it.
func offload(n *nettest.Node) string {
	out, err := n.Try("ethtool", "-k", "flvxlan")
	if err != nil {
		return out
	}
	for line := range strings.Lines(out) {
		if is, found := strings.CutPrefix(line, "tx-checksumming: "); found {
			return strings.TrimSpace(is)
		}
	}
	return "unknown"
}

// tested waits until the host's daemon and device are so.
func tested(t *testing.T, n *nettest.Node, verdict, device string) {
	t.Helper()
	nettest.Eventually(t, 15*time.Second, func() error {
		if s := show[agent.Status](t, n, "status"); s.Offload != verdict || offload(n) != device {
			return fmt.Errorf("%s: self-test %s, offload %s; want %s, %s; %q", n.Name, s.Offload, offload(n), verdict, device, s.Problems)
		}
		return nil
	})
}

// advice is what the doctor says of the offload.
func advice(t *testing.T, n *nettest.Node) string {
	t.Helper()
	for _, f := range decode[[]struct{ Check, Level, Message string }](t, n.CLI("doctor", "-o", "json", "--config", n.ConfigFile()).Stdout) {
		if f.Check == "offload" {
			return f.Level + ": " + f.Message
		}
	}
	return ""
}

func TestACardThatBreaksChecksumsIsFoundOutAndWorkedAround(t *testing.T) {
	l := lab(t, nettest.LabOptions{Nodes: []string{"n1", "n3"}, HoldTime: 9 * time.Second, RPFilter: 1})
	n, other := l.Node("n1"), l.Node("n3")
	sw := l.Switches[0]
	sw.Batch("link add card type veth peer name world", "link set n1 nomaster", "link set world master br0", "link set card up", "link set world up")
	card := sw.Card("n1", "card")
	card.Set(nettest.Corrupting)
	l.Start()
	c, far := n.Attach("n1a"), other.Attach("n3a")
	far.Serve(far.IP4)

	tested(t, n, "bad", summed)
	tested(t, other, "good", offloaded) // its own card is sound
	if err := reaches(c, far.IP4); err != nil {
		t.Error(err)
	}
	if s := show[agent.Status](t, n, "status"); !s.Ready || !slices.ContainsFunc(s.Problems, func(p string) bool { return strings.Contains(p, "offload") }) {
		t.Errorf("ready %v, problems %q", s.Ready, s.Problems)
	}
	if got := advice(t, n); !strings.HasPrefix(got, "warn: ") || !strings.Contains(got, "flvxlan is off, because the self-test failed") {
		t.Errorf("the doctor says %q", got)
	}
	if got := advice(t, other); !strings.HasPrefix(got, "ok: ") || !strings.Contains(got, "flvxlan is on, and the self-test passed") {
		t.Errorf("the doctor says %q", got)
	}

	// By other hands it comes neither with the switch nor with a new device.
	for _, harm := range [][]string{{"ethtool", "-K", "flvxlan", "tx", "on"}, {"ip", "link", "del", "flvxlan"}} {
		n.Run(harm...)
		nettest.Eventually(t, 2*soon, func() error {
			if is := offload(n); is != summed {
				return fmt.Errorf("%v: offload %s", harm, is)
			}
			return reaches(c, far.IP4)
		})
	}

	// The next daemon keeps what it finds, though it can not know why.
	n.Kill()
	n.Start()
	n.WaitConverged(30 * time.Second)
	tested(t, n, "unknown", summed)
	if got := advice(t, n); !strings.HasPrefix(got, "ok: ") || !strings.Contains(got, "flvxlan is off: by hand, or by a self-test before") {
		t.Errorf("the doctor says %q", got)
	}

	// Without a daemon that minds: the card is really sick, and the switch is really the cure.
	n.Kill()
	n.Run("ethtool", "-K", "flvxlan", "tx", "on")
	if err := reaches(c, far.IP4); err == nil {
		t.Error("the card breaks nothing")
	}
	n.Run("ethtool", "-K", "flvxlan", "tx", "off")
	if err := reaches(c, far.IP4); err != nil {
		t.Error(err)
	}

	// The card is mended, and tested anew as the doctor says: without a daemon the device goes, and the next one makes it.
	card.Set(nettest.Sound)
	n.IP("link delete flvxlan")
	n.Start()
	n.WaitConverged(30 * time.Second)
	tested(t, n, "good", offloaded)
}

func TestASelfTestThatPassesIsNotHeard(t *testing.T) {
	l := running(t, nettest.LabOptions{Nodes: []string{"n1", "n2", "n3"}, RPFilter: 1})
	for _, n := range l.Nodes {
		tested(t, n, "good", offloaded)
		if log := n.Log(); strings.Contains(log, "checksum") {
			t.Errorf("%s says:\n%s", n.Name, log)
		}
	}
	// An administrator's switch is left alone, also by the next daemon.
	n := l.Node("n1")
	n.Run("ethtool", "-K", "flvxlan", "tx", "off")
	n.Kill()
	n.Start()
	n.WaitConverged(30 * time.Second)
	tested(t, n, "unknown", summed)
	n.IP("link del flvxlan")
	tested(t, n, "good", offloaded) // the new device is tested
}
