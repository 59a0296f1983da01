package ipam_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/fairlead-net/fairlead/ipam"
)

func prefixes(list ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, s := range list {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}

func pool(cidr string) ipam.Pool { return ipam.Pool{Name: "p", CIDR: netip.MustParsePrefix(cidr)} }

// TestPickedBlocksAreAPromise holds the choice itself: another version of Fairlead must make the same one, or nodes
// that lose their store would pick new blocks.
func TestPickedBlocksAreAPromise(t *testing.T) {
	id := uuid.MustParse("6ba7b810-9dad-11d1-80b4-00c04fd430c8")
	cases := []struct {
		cidr  string
		heard []netip.Prefix
		want  string
	}{
		{"10.88.0.0/16", nil, "10.88.180.0/24"},
		{"10.88.0.0/22", nil, "10.88.1.0/24"},
		{"10.88.4.0/24", nil, "10.88.4.0/24"},
		{"10.88.4.0/26", nil, "10.88.4.0/26"},
		{"2001:db8:88::/64", nil, "2001:db8:88:0:ed59:39ba:9b0b:5100/120"},
		{"2001:db8:88::/122", nil, "2001:db8:88::/122"},
	}
	for _, c := range cases {
		got, err := ipam.PickBlock(id, pool(c.cidr), c.heard)
		if err != nil || got.String() != c.want {
			t.Errorf("block of %s: %s, %v; want %s", c.cidr, got, err, c.want)
		}
	}
}

func TestPickGoesOnPastWhatOthersHave(t *testing.T) {
	id := uuid.MustParse("6ba7b810-9dad-11d1-80b4-00c04fd430c8")
	p := pool("10.88.0.0/21") // eight blocks
	first, err := ipam.PickBlock(id, p, nil)
	if err != nil {
		t.Fatal(err)
	}
	heard := prefixes("203.0.113.0/24", "0.0.0.0/0")[:1]
	seen := map[netip.Prefix]bool{}
	for range 8 {
		got, err := ipam.PickBlock(id, p, heard)
		if err != nil || seen[got] || !p.CIDR.Contains(got.Addr()) || got.Bits() != 24 {
			t.Fatalf("picked %s, %v", got, err)
		}
		if len(seen) == 0 && got != first {
			t.Errorf("picked %s first, want %s", got, first)
		}
		seen[got] = true
		heard = append(heard, got)
	}
	_, err = ipam.PickBlock(id, p, heard)
	if !errors.Is(err, ipam.ErrExhausted) || !strings.Contains(err.Error(), "10.88.0.0/21") {
		t.Errorf("all taken: %v", err)
	}
	for _, wide := range []string{"10.88.0.0/21", "10.0.0.0/8", "0.0.0.0/0"} {
		if got, err := ipam.PickBlock(id, p, prefixes(wide)); !errors.Is(err, ipam.ErrExhausted) {
			t.Errorf("%s is heard: picked %s, %v", wide, got, err)
		}
	}
	for _, half := range []string{"10.88.0.0/22", "10.88.4.0/22"} {
		got, err := ipam.PickBlock(id, p, prefixes(half))
		if err != nil || got.Overlaps(netip.MustParsePrefix(half)) {
			t.Errorf("%s is heard: picked %s, %v", half, got, err)
		}
	}
}

// TestPickFindsWhatIsLeft has random nodes share random pools: it finds a block exactly when one is free.
func TestPickFindsWhatIsLeft(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v6 := rapid.Bool().Draw(t, "v6")
		free := rapid.IntRange(0, 5).Draw(t, "bits of blocks")
		base, whole := netip.MustParseAddr("10.88.0.0"), 24
		if v6 {
			base, whole = netip.MustParseAddr("2001:db8:88::"), 120
		}
		p := ipam.Pool{Name: "p", CIDR: netip.PrefixFrom(base, whole-free).Masked()}
		var id uuid.UUID
		copy(id[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
		var heard []netip.Prefix
		for range rapid.IntRange(0, 40).Draw(t, "heard") {
			bytes := p.CIDR.Addr().AsSlice()
			n := rapid.IntRange(0, 1<<free*256-1).Draw(t, "at")
			bytes[len(bytes)-2] += byte(n >> 8)
			bytes[len(bytes)-1] = byte(n)
			a, _ := netip.AddrFromSlice(bytes)
			heard = append(heard, netip.PrefixFrom(a, whole-free+rapid.IntRange(0, free+8).Draw(t, "length")).Masked())
		}
		taken := 0
		for n := range 1 << free {
			bytes := p.CIDR.Addr().AsSlice()
			bytes[len(bytes)-2] += byte(n)
			a, _ := netip.AddrFromSlice(bytes)
			for _, h := range heard {
				if h.Overlaps(netip.PrefixFrom(a, whole)) {
					taken++
					break
				}
			}
		}
		got, err := ipam.PickBlock(id, p, heard)
		if full := taken == 1<<free; full != (err != nil) || full != errors.Is(err, ipam.ErrExhausted) {
			t.Fatalf("%d of %d taken: picked %s, %v", taken, 1<<free, got, err)
		} else if full {
			return
		}
		if got != got.Masked() || got.Bits() != whole || !p.CIDR.Contains(got.Addr()) {
			t.Fatalf("picked %s of %s", got, p.CIDR)
		}
		for _, h := range heard {
			if h.Overlaps(got) {
				t.Fatalf("picked %s, but heard %s", got, h)
			}
		}
	})
}

func TestNodesSpreadOverThePool(t *testing.T) {
	seen := map[netip.Prefix]int{}
	rng := rand.New(rand.NewPCG(1, 2))
	const nodes = 4096
	for range nodes {
		var id uuid.UUID
		for i := range id {
			id[i] = byte(rng.Uint32())
		}
		got, err := ipam.PickBlock(id, pool("10.88.0.0/20"), nil)
		if err != nil {
			t.Fatal(err)
		}
		seen[got]++
	}
	for block, n := range seen {
		if n < nodes/16/2 || n > nodes/16*2 {
			t.Errorf("%s was picked by %d of %d nodes", block, n, nodes)
		}
	}
	if len(seen) != 16 {
		t.Errorf("%d blocks of 16 were picked", len(seen))
	}
}

// BenchmarkPickAmongThousands is the case of a full site: nearly every block is heard.
func BenchmarkPickAmongThousands(b *testing.B) {
	var heard []netip.Prefix
	for i := range 255 {
		for j := range 16 {
			heard = append(heard, netip.MustParsePrefix(fmt.Sprintf("10.%d.%d.0/24", 80+j, i)))
		}
	}
	p := pool("10.80.0.0/12")
	for b.Loop() {
		if _, err := ipam.PickBlock(uuid.Max, p, heard); err != nil {
			b.Fatal(err)
		}
	}
}
