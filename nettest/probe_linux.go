package nettest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// probeSize is the payload of a probe in bytes.
const probeSize = 64

// lateness is how long an answer is waited for after the last question.
const lateness = time.Second

// Probe sends numbered datagrams at a steady rate to a served address and counts the answers.
type Probe struct {
	title string
	conn  *net.UDPConn
	begun time.Time
	every time.Duration // between two datagrams
	stop  chan struct{}
	sent  chan sender   // what the sender did, when it has stopped
	got   chan receiver // what the receiver saw, when it has stopped
	count chan uint64   // tells the receiver how many were sent
}

type sender struct {
	sent   uint64
	errors []string
}

type receiver struct {
	seen      []bool
	received  uint64
	reordered uint64
	twice     uint64
	rtts      []time.Duration
}

// Tally is what a probe counted.
type Tally struct {
	Title                            string
	Sent, Lost, Reordered, Duplicate uint64
	LostAt                           []time.Duration // since the start; the first few
	Gaps                             []Gap           // every run of lost datagrams, in order
	Errors                           []string        // of sending; the first few
	RTT, Worst                       time.Duration   // median and longest
}

// Gap is a time without an answer.
type Gap struct{ At, For time.Duration } // since the start of the probe

func (g Gap) String() string { return fmt.Sprintf("%v at %v", g.For, g.At) }

// LongestGap is the longest time without an answer, zero when nothing was lost.
func (t Tally) LongestGap() (longest Gap) {
	for _, g := range t.Gaps {
		if g.For > longest.For {
			longest = g
		}
	}
	return longest
}

func (t Tally) String() string {
	s := fmt.Sprintf("%s: %d sent, %d lost, %d reordered, %d twice, rtt %v (longest %v)",
		t.Title, t.Sent, t.Lost, t.Reordered, t.Duplicate, t.RTT, t.Worst)
	if len(t.LostAt) > 0 {
		s += fmt.Sprintf(", lost at %v", t.LostAt)
	}
	if len(t.Errors) > 0 {
		s += ", " + strings.Join(t.Errors, "; ")
	}
	return s
}

// Probe starts a probe of so many datagrams a second. Each is answered, so the way back is probed too.
func (h *Host) Probe(to netip.Addr, rate int) *Probe {
	h.t.Helper()
	p := &Probe{
		title: fmt.Sprintf("udp %s to %s", h.Name, to), every: time.Second / time.Duration(rate), stop: make(chan struct{}),
		sent: make(chan sender, 1), got: make(chan receiver, 1), count: make(chan uint64, 1),
	}
	err := h.Do(func() (err error) {
		p.conn, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, portEcho)))
		return err
	})
	if err == nil {
		err = enlarge(p.conn)
	}
	if err != nil {
		h.t.Fatalf("%s: probe %s: %v", h.Name, to, err)
	}
	p.begun = time.Now()
	go p.send()
	go p.receive()
	h.t.Cleanup(func() { _ = p.conn.Close() })
	return p
}

// send keeps to the clock: a datagram that is late because the machine was busy is sent at once, not left out.
func (p *Probe) send() {
	var s sender
	buf := make([]byte, probeSize)
	for {
		select {
		case <-p.stop:
			p.count <- s.sent
			p.sent <- s
			return
		default:
		}
		if wait := time.Duration(s.sent)*p.every - time.Since(p.begun); wait > 0 {
			time.Sleep(wait)
		}
		sequence(buf, s.sent, time.Since(p.begun))
		if _, err := p.conn.Write(buf); err != nil && len(s.errors) < 5 {
			s.errors = append(s.errors, fmt.Sprintf("send %d after %v: %v", s.sent, time.Since(p.begun).Round(time.Millisecond), err))
		}
		s.sent++
	}
}

// receive takes answers until all are there, or until the last one is late.
func (p *Probe) receive() {
	var r receiver
	defer func() { p.got <- r }()
	buf := make([]byte, probeSize)
	var highest, all uint64
	ending := false
	for !ending || r.received < all {
		_ = p.conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond)) // fails when closed, as the read will
		n, err := p.conn.Read(buf)
		if err == nil && n == probeSize {
			highest = r.take(buf, highest, time.Since(p.begun))
		} else if errors.Is(err, net.ErrClosed) {
			return
		}
		select {
		case all = <-p.count:
			ending = true
			time.AfterFunc(Patience(lateness), func() { _ = p.conn.Close() })
		default:
		}
	}
}

func (r *receiver) take(buf []byte, highest uint64, now time.Duration) uint64 {
	n, sent := readSequence(buf)
	if missing := int(n) + 1 - len(r.seen); missing > 0 {
		r.seen = append(r.seen, make([]bool, missing)...)
	}
	if r.seen[n] {
		r.twice++
		return highest
	}
	r.seen[n] = true
	r.received++
	r.rtts = append(r.rtts, now-sent)
	if n < highest {
		r.reordered++
	}
	return max(n, highest)
}

// Stop ends the probe and waits for the answers that are still under way.
func (p *Probe) Stop() Tally {
	close(p.stop)
	s, r := <-p.sent, <-p.got
	t := Tally{
		Title: p.title, Sent: s.sent, Lost: s.sent - r.received, Reordered: r.reordered, Duplicate: r.twice, Errors: s.errors,
	}
	t.lose(s.sent, r.seen, p.every)
	if len(r.rtts) > 0 {
		slices.Sort(r.rtts)
		t.RTT, t.Worst = r.rtts[len(r.rtts)/2], r.rtts[len(r.rtts)-1]
	}
	return t
}

// lose notes which datagrams have no answer.
func (t *Tally) lose(sent uint64, seen []bool, every time.Duration) {
	for n := uint64(0); n < sent; n++ {
		if n < uint64(len(seen)) && seen[n] {
			continue
		}
		at := time.Duration(n) * every
		if len(t.LostAt) < 8 {
			t.LostAt = append(t.LostAt, at)
		}
		if last := len(t.Gaps) - 1; last >= 0 && t.Gaps[last].At+t.Gaps[last].For == at {
			t.Gaps[last].For += every
		} else {
			t.Gaps = append(t.Gaps, Gap{At: at, For: every})
		}
	}
}
