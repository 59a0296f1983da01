package docker

import (
	"fmt"
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

func TestWaysTo(t *testing.T) {
	for _, c := range []struct {
		subnet    string
		elsewhere []string
		want      string
	}{
		{"10.88.0.0/16", nil, "[10.88.0.0/16]"},
		{"10.88.0.0/16", []string{"10.99.0.0/16", "2001:db8::/64"}, "[10.88.0.0/16]"},
		{"10.88.0.0/16", []string{"10.88.0.0/16"}, "[]"},
		{"10.88.0.0/16", []string{"10.0.0.0/8", "10.88.1.0/24"}, "[]"},
		{"10.88.0.0/22", []string{"10.88.1.0/24"}, "[10.88.0.0/24 10.88.2.0/23]"},
		{"10.88.0.0/30", []string{"10.88.0.1/32"}, "[10.88.0.0/32 10.88.0.2/31]"},
		{"2001:db8:88::/64", []string{"2001:db8:88:0:8000::/65", "2001:db8:88:0:4000::/66"}, "[2001:db8:88::/66]"},
	} {
		var holes []netip.Prefix
		for _, h := range c.elsewhere {
			holes = append(holes, netip.MustParsePrefix(h))
		}
		if got := fmt.Sprint(waysTo(netip.MustParsePrefix(c.subnet), holes)); got != c.want {
			t.Errorf("ways to %s but %v: %s, want %s", c.subnet, c.elsewhere, got, c.want)
		}
	}
	if got := waysTo(netip.MustParsePrefix("2001:db8:88::/64"), []netip.Prefix{netip.MustParsePrefix("2001:db8:88::100/120")}); len(got) != waysDepth {
		t.Errorf("%d ways around one prefix: %v", len(got), got)
	}
}

// TestWaysLeadWhereTheyShall: every address of the subnet that is not to be had elsewhere, and no other one, has a way.
func TestWaysLeadWhereTheyShall(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		number := func(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 88, 0, byte(n)}) }
		prefix := func(name string) netip.Prefix {
			return netip.PrefixFrom(number(rapid.IntRange(0, 255).Draw(t, name)), rapid.IntRange(24, 32).Draw(t, name+" bits")).Masked()
		}
		subnet := prefix("subnet")
		holes := make([]netip.Prefix, rapid.IntRange(0, 3).Draw(t, "holes"))
		for i := range holes {
			holes[i] = prefix("hole")
		}
		ways := waysTo(subnet, holes)
		for i := range 256 {
			a, count, want := number(i), 0, 0
			for _, w := range ways {
				if w.Contains(a) {
					count++
				}
			}
			if subnet.Contains(a) {
				want = 1
			}
			for _, h := range holes {
				if h.Contains(a) {
					want = 0
				}
			}
			if count != want {
				t.Fatalf("%d ways to %s, want %d: %v", count, a, want, ways)
			}
		}
	})
}
