package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

const (
	feedSize    = 4096 // events that a reader may be behind
	feedBatch   = 64   // events that a reader is handed at once
	mostReaders = 32
)

var errCrowded = errors.New("too many read the events")

// feed keeps the latest events for those who follow them. Nobody can make it wait: who falls behind by more than it keeps
// is told how many events were lost, and goes on with what is there.
type feed struct {
	over context.Context // ends with the API
	end  context.CancelFunc

	mu      sync.Mutex
	ring    []Event       // event n is at n % feedSize
	next    uint64        // number of the event that comes next
	more    chan struct{} // closed by the next event
	readers int
}

func newFeed() *feed {
	f := &feed{more: make(chan struct{})}
	f.over, f.end = context.WithCancel(context.Background())
	return f
}

// add hands events to all readers.
func (f *feed) add(events []Event) {
	if len(events) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range events {
		if len(f.ring) < feedSize {
			f.ring = append(f.ring, e)
		} else {
			f.ring[f.next%feedSize] = e
		}
		f.next++
	}
	close(f.more)
	f.more = make(chan struct{})
}

func (f *feed) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.readers
}

// reader is a place in the feed.
type reader struct {
	feed *feed
	at   uint64 // number of the event that it gets next
}

// join makes a reader of what comes from now on. It must leave.
func (f *feed) join() (*reader, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.readers >= mostReaders {
		return nil, fmt.Errorf("%w: %d do: end one of them, or follow one by one of your own that hands them on", errCrowded, mostReaders)
	}
	f.readers++
	return &reader{feed: f, at: f.next}, nil
}

func (r *reader) leave() {
	r.feed.mu.Lock()
	defer r.feed.mu.Unlock()
	r.feed.readers--
}

// take waits for events. It returns none when ctx has ended, or when the feed has and nothing is left of it.
func (r *reader) take(ctx context.Context) []Event {
	for {
		events, more := r.ready()
		if len(events) > 0 {
			return events
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil
		case <-r.feed.over.Done():
			events, _ := r.ready() // the last of them may have come between
			return events
		}
	}
}

// ready is what can be read now, and what is closed when there is more.
func (r *reader) ready() (events []Event, more <-chan struct{}) {
	f := r.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	if oldest := f.next - uint64(len(f.ring)); r.at < oldest {
		lost := f.ring[oldest%feedSize] // its time is that of the first event which was not lost
		lost = Event{Time: lost.Time, Event: eventLost, Node: lost.Node, Revision: lost.Revision, Count: int(oldest - r.at)}
		events = append(events, lost)
		r.at = oldest
	}
	for ; r.at < f.next && len(events) < feedBatch; r.at++ {
		events = append(events, f.ring[r.at%feedSize])
	}
	return events, f.more
}
