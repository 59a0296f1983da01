package nettest

import (
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// Stage is the T of a program: its play ends on a failure or an interruption and leaves nothing standing.
type Stage struct {
	name     string
	over     chan struct{} // closed when the play has ended
	clearing sync.Mutex    // held while things are undone

	mu          sync.Mutex
	cleanups    []func()
	failed      bool
	interrupted bool
}

// fatal unwinds the play after a failure or an interruption.
type fatal struct{ error }

// OnStage plays until the end, a failure or an interruption, undoes what was put up, and says why the play failed.
//
// An interruption ends the process when everything is undone.
func OnStage(name string, play func(*Stage) error) (err error) {
	s := &Stage{name: name, over: make(chan struct{})}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	defer signal.Stop(signals)
	go s.heed(signals)
	defer s.end(&err)
	return s.Part(func() error { return play(s) })
}

// Part plays, and undoes what was put up meanwhile, whatever was standing before.
func (s *Stage) Part(play func() error) error {
	s.mu.Lock()
	before := len(s.cleanups)
	s.mu.Unlock()
	defer s.clear(before)
	err := play()
	if err != nil {
		s.fail()
	}
	return err
}

// Keep leaves standing what stands.
func (s *Stage) Keep() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cleanups = nil
}

// Helper is called at every step of the laboratory: it is where an interrupted play stops.
func (s *Stage) Helper() {
	s.mu.Lock()
	stop := s.interrupted
	s.mu.Unlock()
	if stop {
		panic(fatal{})
	}
}

func (s *Stage) Name() string { return s.name }

func (s *Stage) Logf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// Fatalf ends the play; OnStage returns what it says.
func (s *Stage) Fatalf(format string, args ...any) {
	s.Helper()
	s.fail()
	panic(fatal{fmt.Errorf(format, args...)})
}

func (s *Stage) fail() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = true
}

func (s *Stage) Failed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

// Cleanup keeps what undoes something.
func (s *Stage) Cleanup(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cleanups = append(s.cleanups, f)
}

// stepTime is how long an interrupted play may take to its next step. Only waiting takes longer, and makes nothing.
const stepTime = 3 * time.Second

// heed takes everything down on a signal.
func (s *Stage) heed(signals <-chan os.Signal) {
	var sig os.Signal
	select {
	case <-s.over:
		return
	case sig = <-signals:
	}
	fmt.Fprintf(os.Stderr, "\n%s: %v: taking everything down\n", s.name, sig)
	s.mu.Lock()
	s.interrupted = true
	s.mu.Unlock()
	select {
	case <-s.over:
	case <-time.After(stepTime):
	}
	s.clear(0)
	os.Exit(1)
}

// end is called when the play is over, however that came.
func (s *Stage) end(err *error) {
	r := recover()
	close(s.over)
	s.mu.Lock()
	interrupted := s.interrupted
	s.mu.Unlock()
	failure, ours := r.(fatal)
	switch {
	case interrupted:
		select {} // the process ends when all is cleaned up
	case ours:
		*err = failure.error
	case r != nil:
		panic(r)
	}
}

// clear undoes the latest first, until only so many are left.
func (s *Stage) clear(left int) {
	s.clearing.Lock()
	defer s.clearing.Unlock()
	for undo := s.latest(left); undo != nil; undo = s.latest(left) {
		undo()
	}
}

// latest takes what was put up last, unless only so many are left.
func (s *Stage) latest(left int) func() {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := len(s.cleanups) - 1
	if last < left {
		return nil
	}
	undo := s.cleanups[last]
	s.cleanups = s.cleanups[:last]
	return undo
}
