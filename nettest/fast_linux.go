package nettest

import (
	"errors"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// WaitFast waits until every program of the host's fast path is at its place.
func (n *Node) WaitFast(patience time.Duration) time.Duration {
	n.lab.t.Helper()
	return Eventually(n.lab.t, patience, func() error {
		var s struct {
			Fastpath string `json:"fastpath"`
		}
		if err := n.Get("status", &s); err != nil {
			return fmt.Errorf("%s: %w", n.Name, err)
		}
		if !strings.HasPrefix(s.Fastpath, "on (") || strings.Contains(s.Fastpath, "still to be attached") {
			return fmt.Errorf("%s: fast path %s", n.Name, s.Fastpath)
		}
		return nil
	})
}

// WaitFast waits until the programs of all hosts that have a fast path are at their places.
func (l *Lab) WaitFast(patience time.Duration) {
	l.t.Helper()
	if l.o.Fastpath == "off" {
		return
	}
	for _, n := range l.Nodes {
		n.WaitFast(patience)
	}
}

// FastCount is what a count of the fast path's packets is of.
type FastCount struct {
	Of  string // the name of an endpoint or a prefix of other hosts; "": of the whole host
	Way string // as the metrics have it
}

// FastCounts are packets, or bytes.
type FastCounts map[FastCount]int

// FastCounts are the packets that the host's fast path has counted, from the daemon's metrics.
func (n *Node) FastCounts() FastCounts { return n.fastCounts("packets") }

// FastBytes are those of endpoints and prefixes in bytes.
func (n *Node) FastBytes() FastCounts { return n.fastCounts("bytes") }

func (n *Node) fastCounts(unit string) FastCounts {
	n.lab.t.Helper()
	text, err := n.Metrics()
	if err != nil {
		n.lab.t.Fatalf("%s: read metrics: %v", n.Name, err)
	}
	series := regexp.MustCompile(`(?m)^fairlead_fastpath_(?:endpoint_|route_)?` + unit + `_total\{(?:(?:endpoint|prefix)="([^"]*)",)?way="([^"]*)"\} (\S+)$`)
	counts := make(FastCounts)
	for _, found := range series.FindAllStringSubmatch(text, -1) {
		v, err := strconv.ParseFloat(found[3], 64)
		if err != nil {
			n.lab.t.Fatalf("%s: metric %s: %v", n.Name, found[0], err)
		}
		counts[FastCount{Of: found[1], Way: found[2]}] = int(v)
	}
	if len(counts) == 0 {
		n.lab.t.Fatalf("%s: the fast path counts nothing", n.Name)
	}
	return counts
}

// Since is how much each count has grown.
func (c FastCounts) Since(before FastCounts) FastCounts {
	grown := make(FastCounts)
	for of, n := range c {
		grown[of] = n - before[of]
	}
	return grown
}

// Ways is the sum of the whole host's counts of ways that begin so.
func (c FastCounts) Ways(prefix string) (sum int) {
	for of, n := range c {
		if of.Of == "" && strings.HasPrefix(of.Way, prefix) {
			sum += n
		}
	}
	return sum
}

// Programs counts what is attached to each of the host's links by tcx, by the link's name and "in" or "out". A place where
// nothing is has no count.
func (h *Host) Programs() map[string]int {
	h.t.Helper()
	counts := make(map[string]int)
	err := h.Do(func() error {
		links, err := net.Interfaces()
		if err != nil {
			return err
		}
		for _, l := range links {
			for way, place := range map[string]uint32{"in": unix.BPF_TCX_INGRESS, "out": unix.BPF_TCX_EGRESS} {
				n, err := programsAt(l.Index, place)
				if err != nil {
					return fmt.Errorf("ask %s %s: %w", l.Name, way, err)
				}
				if n > 0 {
					counts[l.Name+" "+way] = n
				}
			}
		}
		return nil
	})
	if err != nil {
		h.t.Fatalf("%s: look for programs: %v", h.Name, err)
	}
	return counts
}

// programsAt asks the kernel how many programs are at a hook: BPF_PROG_QUERY of bpf(2), without room for their numbers.
func programsAt(index int, place uint32) (int, error) {
	query := struct {
		target, place, queryFlags, attachFlags uint32
		ids                                    uint64
		count, _                               uint32
		_                                      [3]uint64
	}{target: uint32(index), place: place}
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_QUERY, uintptr(unsafe.Pointer(&query)), unsafe.Sizeof(query))
	if errno != 0 && !errors.Is(errno, unix.ENODEV) && !errors.Is(errno, unix.ENOENT) { // gone meanwhile
		return 0, errno
	}
	return int(query.count), nil
}
