package main

import (
	"fmt"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"
)

// stage is the nettest.T of the demonstration: it ends on a failure and leaves nothing standing.
type stage struct {
	name string
	over chan struct{} // closed when the play has ended

	mu          sync.Mutex
	cleanups    []func()
	failed      bool
	interrupted bool
}

// fatal unwinds the play after a failure or an interruption.
type fatal struct{}

func newStage(name string) *stage { return &stage{name: name, over: make(chan struct{})} }

// Helper is called at every step of the laboratory: it is where an interrupted play stops.
func (s *stage) Helper() {
	s.mu.Lock()
	stop := s.interrupted
	s.mu.Unlock()
	if stop {
		panic(fatal{})
	}
}

func (s *stage) Name() string { return s.name }

func (s *stage) Logf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

func (s *stage) Fatalf(format string, args ...any) {
	s.Helper()
	s.Errorf(format, args...)
	panic(fatal{})
}

// Errorf says what is not as it should be; the demonstration goes on and ends with exit code 1.
func (s *stage) Errorf(format string, args ...any) {
	s.mu.Lock()
	s.failed = true
	s.mu.Unlock()
	fmt.Fprintf(os.Stderr, "\ndemo: "+format+"\n", args...)
}

func (s *stage) Failed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

// Cleanup keeps what undoes something.
func (s *stage) Cleanup(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cleanups = append(s.cleanups, f)
}

// patience is how long an interrupted play may take to its next step. Only waiting takes longer, and makes nothing.
const patience = 3 * time.Second

// run plays until the end, a failure or an interruption. The latter ends the process when all is cleaned up.
func (s *stage) run(play func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	go func() {
		sig := <-signals
		fmt.Fprintf(os.Stderr, "\ndemo: %v: taking everything down\n", sig)
		s.mu.Lock()
		s.interrupted = true
		s.mu.Unlock()
		select {
		case <-s.over:
		case <-time.After(patience):
		}
		s.clear()
		os.Exit(1)
	}()
	defer s.end()
	play()
}

// end is called when the play is over, however that came.
func (s *stage) end() {
	r := recover()
	close(s.over)
	s.mu.Lock()
	interrupted := s.interrupted
	s.mu.Unlock()
	switch {
	case interrupted:
		select {} // the process ends when all is cleaned up
	case r != nil && r != any(fatal{}):
		s.clear()
		panic(r)
	}
}

// clear undoes everything, the latest first.
func (s *stage) clear() {
	s.mu.Lock()
	undo := s.cleanups
	s.cleanups = nil
	s.mu.Unlock()
	for _, f := range slices.Backward(undo) {
		f()
	}
}
