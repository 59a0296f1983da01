package fastpath_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf/ringbuf"

	"github.com/fairlead-net/fairlead/fastpath"
)

// watched is struct pair, told struct sighting.
type (
	watched struct {
		Family, Lost uint32
		A, B         [16]byte
	}
	told struct {
		Time                       uint64
		From, To                   [16]byte
		Link, Length, Reason       uint32
		Ports                      [4]byte
		Family, Protocol, TTL, Pad uint8
		Lost                       uint32
	}
)

func watch4(a, b string) (w watched) {
	w.Family = 4
	copy(w.A[:], netip.MustParseAddr(a).AsSlice())
	copy(w.B[:], netip.MustParseAddr(b).AsSlice())
	return w
}

// TestProgramsTellOfThePairThatIsFollowed: each verdict is told with its reason, and of no other pair anything is.
func TestProgramsTellOfThePairThatIsFollowed(t *testing.T) {
	r := newRig(t)
	s := r.site()
	r.set(t, s.modelWorld)
	ring, err := ringbuf.NewReader(r.maps["fl_events"])
	if err != nil {
		t.Fatal(err)
	}
	defer ring.Close()
	for _, c := range fromContainerByHand(s) {
		if c.reason == "" || len(c.frame) < 34 || c.frame[12] != 8 || c.frame[13] != 0 || c.segment != 0 {
			continue
		}
		from, _ := netip.AddrFromSlice(c.frame[26:30])
		to, _ := netip.AddrFromSlice(c.frame[30:34])
		for _, pair := range []watched{watch4(from.String(), to.String()), watch4(to.String(), from.String()), watch4(from.String(), "8.8.8.8"), {}} {
			if err := r.maps["fl_trace"].Put(uint32(0), pair); err != nil {
				t.Fatal(err)
			}
			link := c.link
			if link == "" {
				link = "c0"
			}
			r.run(t, "fl_from_container", &modelFrame{bytes: c.frame, link: s.devices[link].link})
			all := drain(t, ring)
			switch mine := pair.B == watch4(from.String(), to.String()).B || pair.A == watch4(to.String(), from.String()).A; {
			case !mine && len(all) > 0:
				t.Errorf("%s: told of what nobody follows: %+v", c.name, all)
			case mine && len(all) != 1:
				t.Errorf("%s: told %d times", c.name, len(all))
			case mine:
				word := strings.ReplaceAll(fastpath.Reason(all[0].Reason).String(), "-", " ")
				if word != c.reason || all[0].Link != s.devices[link].link || all[0].Family != 4 {
					t.Errorf("%s: told %s of link %d: %+v", c.name, word, all[0].Link, all[0])
				}
			}
		}
	}
}

// drain reads all that is there.
func drain(t *testing.T, ring *ringbuf.Reader) (all []told) {
	t.Helper()
	for {
		ring.SetDeadline(time.Unix(1, 0))
		record, err := ring.Read()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return all
		}
		var v told
		if err == nil {
			err = binary.Read(bytes.NewReader(record.RawSample), binary.NativeEndian, &v)
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, v)
	}
}
