package nettest

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// Talk is a UDP client that asks over and over from one port of its own.
type Talk struct {
	conn *net.UDPConn
	stop chan struct{}
	over sync.Once
	done sync.WaitGroup

	mu    sync.Mutex
	heard []Heard
}

// Heard is an answer: who gave it, and when it came.
type Heard struct {
	Name string
	At   time.Time
}

// Talk starts to ask a service that Offer made, through whatever leads there.
func (h *Host) Talk(to netip.AddrPort, every time.Duration) *Talk {
	h.t.Helper()
	t := &Talk{stop: make(chan struct{})}
	if err := h.Do(func() (err error) {
		t.conn, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
		return err
	}); err != nil {
		h.t.Fatalf("%s: talk to %s: %v", h.Name, to, err)
	}
	t.done.Go(func() { t.ask(every) })
	t.done.Go(t.listen)
	h.t.Cleanup(t.Stop)
	return t
}

func (t *Talk) ask(every time.Duration) {
	for {
		_, _ = t.conn.Write([]byte("who am I")) // that nobody is there now is what the talk finds out
		select {
		case <-t.stop:
			return
		case <-time.After(every):
		}
	}
}

func (t *Talk) listen() {
	buf := make([]byte, 256)
	for {
		n, err := t.conn.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // nobody is there now
		}
		name, _, _ := strings.Cut(string(buf[:n]), " ")
		t.mu.Lock()
		t.heard = append(t.heard, Heard{name, time.Now()})
		t.mu.Unlock()
	}
}

// Since is what was heard after a moment.
func (t *Talk) Since(moment time.Time) (all []Heard) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, h := range t.heard {
		if h.At.After(moment) {
			all = append(all, h)
		}
	}
	return all
}

// Stop ends the talk.
func (t *Talk) Stop() {
	t.over.Do(func() {
		close(t.stop)
		_ = t.conn.Close()
		t.done.Wait()
	})
}
