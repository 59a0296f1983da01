package fastpath

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"
)

const (
	sightings = 256         // that wait for whoever follows
	blink     = time.Second // how often a follower looks whether the programs are still there
)

// Follow tells of the packets between two addresses, in both directions, until ctx ends or the programs are taken away; then
// the channel is closed. While somebody follows, others get ErrFollowed.
func (k *Kernel) Follow(ctx context.Context, a, b netip.Addr) (<-chan Sighting, error) {
	w, done := k.loaded()
	defer done()
	if w == nil {
		return nil, errIdle
	}
	pair, err := pairOf(a, b)
	if err != nil {
		return nil, err
	}
	if !w.tables.following.TryLock() {
		return nil, ErrFollowed
	}
	f, err := k.follow(w, pair)
	if err != nil {
		w.tables.following.Unlock()
		return nil, err
	}
	seen := make(chan Sighting, sightings)
	go func() {
		defer w.tables.following.Unlock()
		defer close(seen)
		f.run(ctx, seen)
	}()
	return seen, nil
}

// follower reads the ring buffer for one pair.
type follower struct {
	pair   pairValue
	filter *ebpf.Map
	ring   *ringbuf.Reader
	start  time.Time // of the clock of the programs
	kernel *Kernel
	work   *work // of when it began
	known  links // when one was met last that was not known before
}

func (k *Kernel) follow(w *work, pair pairValue) (*follower, error) {
	filter, err := w.tables.all["fl_trace"].Clone() // it is to be switched off also when the tables are closed before
	if err != nil {
		return nil, fmt.Errorf("follow packets: %w", err)
	}
	ring, err := ringbuf.NewReader(w.tables.all["fl_events"])
	if err != nil {
		return nil, errors.Join(fmt.Errorf("follow packets: %w", err), filter.Close())
	}
	f := &follower{pair: pair, filter: filter, ring: ring, kernel: k, work: w}
	var now unix.Timespec
	if err = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err == nil {
		f.start = time.Now().Add(-time.Duration(now.Nano()))
		err = filter.Put(uint32(0), pair)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("follow packets: %w", err), ring.Close(), filter.Close())
	}
	return f, nil
}

// run hands over what the programs tell, and switches them off again.
func (f *follower) run(ctx context.Context, seen chan<- Sighting) {
	defer func() { _ = f.filter.Close() }()
	defer func() { _ = f.ring.Close() }()
	defer func() { _ = f.filter.Put(uint32(0), pairValue{}) }() // a map that takes nothing has nobody who reads it
	defer context.AfterFunc(ctx, func() { _ = f.ring.Close() })()
	for ctx.Err() == nil && !f.gone() {
		f.ring.SetDeadline(time.Now().Add(blink))
		record, err := f.ring.Read()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		var v sightingValue
		if err != nil || binary.Read(bytes.NewReader(record.RawSample), binary.NativeEndian, &v) != nil {
			return
		}
		if !v.isOf(f.pair) {
			continue
		}
		select {
		case seen <- v.decode(f.start, f.name):
		case <-ctx.Done():
		}
	}
}

// name is that of a link, or its number when it is gone.
func (f *follower) name(index uint32) string {
	if _, known := f.known.numbered[index]; !known {
		f.learn()
	}
	if l, known := f.known.numbered[index]; known {
		return l.name
	}
	return strconv.FormatUint(uint64(index), 10)
}

func (f *follower) learn() {
	w, done := f.kernel.loaded()
	defer done()
	if w != f.work {
		return
	}
	if all, err := w.tables.wire.links(); err == nil {
		f.known = all
	}
}

// gone tells whether the programs were taken away.
func (f *follower) gone() bool {
	w, done := f.kernel.loaded()
	defer done()
	return w != f.work
}

// unfollow switches off what a daemon left that was killed while somebody followed.
func (t *tables) unfollow() error {
	if err := t.all["fl_trace"].Put(uint32(0), pairValue{}); err != nil {
		return fmt.Errorf("stop telling of packets: %w", err)
	}
	return nil
}
