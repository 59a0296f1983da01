package nettest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// Flows are TCP connections that send and get back, over and over.
type Flows struct {
	title string
	conns []net.Conn
	stop  chan struct{}
	done  sync.WaitGroup

	mu     sync.Mutex
	rounds int
	faults []string
	worst  time.Duration
}

// FlowTally is what flows came to.
type FlowTally struct {
	Title  string
	Flows  int
	Rounds int           // messages that came back whole
	Worst  time.Duration // the longest time that one took
	Faults []string      // resets, stalls, wrong content
}

func (t FlowTally) String() string {
	return fmt.Sprintf("%s: %d flows, %d messages echoed, longest %v, %d faults %s",
		t.Title, t.Flows, t.Rounds, t.Worst, len(t.Faults), strings.Join(t.Faults, "; "))
}

// Flows opens so many TCP connections to a served address and keeps them busy.
func (h *Host) Flows(to netip.Addr, count int) *Flows {
	h.t.Helper()
	f := &Flows{title: fmt.Sprintf("tcp %s to %s", h.Name, to), stop: make(chan struct{})}
	for range count {
		var c net.Conn
		err := h.Do(func() (err error) {
			c, err = net.DialTimeout("tcp", netip.AddrPortFrom(to, portEcho).String(), Patience(5*time.Second))
			return err
		})
		if err != nil {
			h.t.Fatalf("%s: connect to %s: %v", h.Name, to, err)
		}
		f.conns = append(f.conns, c)
		h.t.Cleanup(func() { _ = c.Close() })
	}
	for i, c := range f.conns {
		f.done.Go(func() { f.drive(c, i) })
	}
	return f
}

// stall is when a message counts as stuck. It is far above any delay of a busy machine and of one lost packet.
const stall = 10 * time.Second

func (f *Flows) drive(c net.Conn, number int) {
	message, answer := make([]byte, 0, 2048), make([]byte, 2048)
	for round := 0; ; round++ {
		select {
		case <-f.stop:
			return
		case <-time.After(40 * time.Millisecond):
		}
		message = fill(message[:100+(round*97+number*31)%1900], round, number)
		begun := time.Now()
		err := exchange(c, message, answer[:len(message)])
		took := time.Since(begun)
		f.mu.Lock()
		f.worst = max(f.worst, took)
		if err != nil {
			f.faults = append(f.faults, fmt.Sprintf("flow %d, message %d: %v", number, round, err))
			f.mu.Unlock()
			return
		}
		f.rounds++
		f.mu.Unlock()
	}
}

func fill(b []byte, round, number int) []byte {
	for i := range b {
		b[i] = byte(i*7 + round*13 + number)
	}
	return b
}

// Stop ends the flows in order and says how they fared.
func (f *Flows) Stop() FlowTally {
	close(f.stop)
	f.done.Wait()
	for _, c := range f.conns {
		_ = c.Close()
	}
	return FlowTally{Title: f.title, Flows: len(f.conns), Rounds: f.rounds, Worst: f.worst, Faults: f.faults}
}

// exchange sends a message and reads it back.
func exchange(c net.Conn, message, answer []byte) error {
	if err := c.SetDeadline(time.Now().Add(Patience(stall))); err != nil {
		return err
	}
	if _, err := c.Write(message); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, answer); err != nil {
		return err
	}
	if !bytes.Equal(message, answer) {
		return errors.New("the answer differs from the message")
	}
	return nil
}
