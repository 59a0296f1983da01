package agent

import (
	"context"
	"net/http"

	"golang.org/x/sys/unix"
)

// Handler is the API without its socket.
func (a *Agent) Handler() http.Handler { return a.handler() }

// AsRoot marks a request as one that came from root over the socket.
func AsRoot(r *http.Request) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), caller{}, &unix.Ucred{Uid: 0}))
}

// GoneGrace is how long an endpoint must have been missing.
const GoneGrace = goneGrace

// Asked is poked when a pass is wanted, of an agent that does not run.
func (a *Agent) Asked() <-chan struct{} { return a.asked }

// Pass makes one pass, of an agent that does not run.
func (a *Agent) Pass(ctx context.Context) { a.publish(a.converge(ctx)) }

// Look reads the inputs of a pass, of an agent that does not run; chores does what is due after them.
func (a *Agent) Look(ctx context.Context) (chores func() (changed bool, err error), err error) {
	in, err := a.read(ctx)
	return func() (bool, error) { return a.keepHouse(ctx, in) }, err
}

// Tell hands events to whoever follows them, as a pass does.
func (a *Agent) Tell(events ...Event) { a.news.feed.add(events) }

// Readers is how many follow the events.
func (a *Agent) Readers() int { return a.news.feed.count() }

// How many events are kept, and how many may follow them.
const (
	FeedSize    = feedSize
	MostReaders = mostReaders
	LineLimit   = lineLimit
)

// How many hooks run, and how many events wait for one.
const (
	HooksAtOnce = hooksAtOnce
	HooksQueued = hooksQueued
)
