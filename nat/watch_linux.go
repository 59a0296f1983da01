package nat

import (
	"context"
	"encoding/binary"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	watchTime  = time.Second // between two looks at the sets
	headerOnly = 1 << 2      // IPSET_FLAG_LIST_HEADER, include/uapi/linux/netfilter/ipset/ip_set.h
)

// Changed pokes after others have emptied, removed or filled a set that was listed or put. The channel has capacity 1.
//
// The kernel sends no events of sets. So their headers are read every second, as long as there is a set of ours, until
// there was a poke or the kernel is closed; List begins anew. A member in the place of another goes unnoticed.
func (t *Sets) Changed() <-chan struct{} { return t.changed }

// watch looks at the sets as long as any is known. The caller holds the lock.
func (t *Sets) watch() {
	if len(t.held) == 0 || t.tick != nil {
		return
	}
	tick := time.NewTicker(watchTime)
	t.tick = tick
	t.k.beside(func(end <-chan struct{}) {
		defer tick.Stop()
		for {
			select {
			case <-end:
				return
			case <-tick.C:
			}
			if !t.look() {
				return
			}
		}
	})
}

// look pokes when a set is not as it was left, and tells whether to look again. What a pass does to the sets it does
// not see half done.
func (t *Sets) look() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for set, left := range t.held {
		if t.differs(set.Set, left) {
			t.held = nil // to be listed again
			select {
			case t.changed <- struct{}{}:
			default:
			}
			break
		}
	}
	if len(t.held) == 0 {
		t.tick = nil
		return false
	}
	return true
}

// differs tells whether a set is gone, or has not as many members as it was left with. A kernel that does not count them
// (before 4.10) tells of the first alone, and one that does not answer tells the pass why.
func (t *Sets) differs(name string, left int) bool {
	req := setRequest(nl.IPSET_CMD_LIST, unix.NLM_F_DUMP, name)
	req.AddData(nl.NewRtAttr(nl.IPSET_ATTR_FLAGS|int(nl.NLA_F_NET_BYTEORDER), nl.BEUint32Attr(headerOnly)))
	n := left
	err := t.dump(context.Background(), req, func() { n = left }, func(body []byte) {
		for kind, header := range attributes(body) {
			if kind != nl.IPSET_ATTR_DATA {
				continue
			}
			for kind, value := range attributes(header) {
				if kind == nl.IPSET_ATTR_ELEMENTS && len(value) == 4 {
					n = int(binary.BigEndian.Uint32(value))
				}
			}
		}
	})
	return absent(err) || err == nil && n != left
}

// census counts the members of each set in a listing, but of those that must be made anew.
func census(have map[Member]Fault) map[Member]int {
	held := make(map[Member]int)
	for m, fault := range have {
		switch {
		case fault != "":
		case m.whole():
			held[m] += 0
		default:
			held[m.set()]++
		}
	}
	return held
}

// keep notes what Apply did, but for what failed.
func (t *Sets) keep(puts map[Member]Fault, deletes []Member, failed map[Member]error) {
	done := make(map[Member]Fault, len(puts))
	for m := range puts {
		if failed[m] == nil {
			done[m] = ""
		}
	}
	for set, n := range census(done) {
		if t.held == nil {
			t.held = make(map[Member]int)
		}
		t.held[set] += n
	}
	for _, m := range deletes {
		_, there := t.held[m.set()]
		switch {
		case failed[m] != nil || !there:
		case m.whole():
			delete(t.held, m)
		default:
			t.held[m.set()]--
		}
	}
}
