package nat

import (
	"fmt"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	sizeTime = 250 * time.Millisecond // between two looks at the size of the old back end's tables
	getInfo  = 64                     // IPT_SO_GET_INFO, include/uapi/linux/netfilter_ipv4/ip_tables.h; for IPv6 the same
)

// size is how much is in a table of the old back end.
type size struct{ Rules, Bytes uint32 }

// tableInfo is struct ipt_getinfo.
type tableInfo struct {
	Name      [32]byte
	Hooks     uint32
	Entry     [5]uint32
	Underflow [5]uint32
	Size      size
}

// gauge is a socket that tells the size of tables of one family in one network namespace.
type gauge struct{ fd, level int }

func openGauge(family int) (g gauge, err error) {
	domain := unix.AF_INET
	if g.level = unix.IPPROTO_IP; family == 6 {
		domain, g.level = unix.AF_INET6, unix.IPPROTO_IPV6
	}
	g.fd, err = unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return g, fmt.Errorf("open raw socket: %w", err)
	}
	return g, nil
}

// measure asks for a table, which is made by that where it is not there.
func (g gauge) measure(table string) (size, error) {
	var info tableInfo
	copy(info.Name[:len(info.Name)-1], table)
	length := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(g.fd), uintptr(g.level), getInfo,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&length)), 0)
	if errno != 0 {
		return size{}, fmt.Errorf("ask for the size of the table %s: %w", table, errno)
	}
	return info.Size, nil
}

// sizes are those of a table of the old back end as it was read, by family. That back end tells nobody of changes, so they
// are asked for again and again, as long as there is anything of ours. A rule in the place of another goes unnoticed.
type sizes struct {
	left   map[int]size
	gauges map[int]gauge
	tick   *time.Ticker // of who asks; nil when nobody does
}

// note keeps the size of a table that is about to be read.
func (s *sizes) note(t *tool) {
	delete(s.left, t.family)
	if t.of != legacy || t.vacant() {
		return
	}
	g, open := s.gauges[t.family]
	if !open {
		var err error
		if g, err = openGauge(t.family); err != nil { // then nobody tells: what was read is believed for some time
			return
		}
		if s.gauges == nil {
			s.gauges = make(map[int]gauge)
		}
		s.gauges[t.family] = g
	}
	now, err := g.measure(t.table)
	if err != nil {
		return
	}
	if s.left == nil {
		s.left = make(map[int]size)
	}
	s.left[t.family] = now
}

// watch asks for the sizes as long as there are some to compare with. When one differs it calls doubt, and pokes who
// waits for h. All of it goes on under mu, which the caller holds.
func (s *sizes) watch(h *hand, mu *sync.Mutex, doubt func()) {
	switch {
	case s.tick != nil:
		return
	case len(s.left) == 0:
		s.close()
		return
	}
	tick := time.NewTicker(sizeTime)
	s.tick = tick
	h.k.beside(func(end <-chan struct{}) {
		defer tick.Stop()
		for {
			select {
			case <-end:
				mu.Lock()
				s.close()
				mu.Unlock()
				return
			case <-tick.C:
			}
			if !s.look(h, mu, doubt) {
				return
			}
		}
	})
}

// look tells whether to look again.
func (s *sizes) look(h *hand, mu *sync.Mutex, doubt func()) bool {
	mu.Lock()
	defer mu.Unlock()
	for family, left := range s.left {
		if now, err := s.gauges[family].measure(h.at.table); err == nil && now != left {
			s.left = nil
			doubt() // it is to be read again
			h.poke()
			break
		}
	}
	if len(s.left) > 0 {
		return true
	}
	s.tick = nil
	s.close()
	return false
}

func (s *sizes) close() {
	for _, g := range s.gauges {
		unix.Close(g.fd)
	}
	s.gauges = nil
}
