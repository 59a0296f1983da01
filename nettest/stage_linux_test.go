package nettest_test

import (
	"errors"
	"os"
	"slices"
	"testing"

	"github.com/fairlead-net/fairlead/nettest"
)

func TestStageUndoesTheLatestFirst(t *testing.T) {
	var undone []string
	put := func(s *nettest.Stage, name string) { s.Cleanup(func() { undone = append(undone, name) }) }
	err := nettest.OnStage("play", func(s *nettest.Stage) error {
		put(s, "first")
		err := s.Part(func() error {
			put(s, "part")
			put(s, "its end")
			return nil
		})
		if want := []string{"its end", "part"}; !slices.Equal(undone, want) {
			t.Errorf("after the part %q are undone, want %q", undone, want)
		}
		put(s, "last")
		return err
	})
	if want := []string{"its end", "part", "last", "first"}; err != nil || !slices.Equal(undone, want) {
		t.Errorf("%v; undone %q, want %q", err, undone, want)
	}
}

func TestStageSaysWhyThePlayFailed(t *testing.T) {
	cause := errors.New("no cable")
	for name, play := range map[string]func(*nettest.Stage) error{
		"returned": func(*nettest.Stage) error { return cause },
		"fatal":    func(s *nettest.Stage) error { s.Fatalf("plug: %w", cause); return nil },
		"in a part": func(s *nettest.Stage) error {
			return s.Part(func() error { s.Fatalf("plug: %w", cause); return nil })
		},
	} {
		t.Run(name, func(t *testing.T) {
			failed := false
			err := nettest.OnStage("play", func(s *nettest.Stage) error {
				s.Cleanup(func() { failed = s.Failed() })
				return play(s)
			})
			if !errors.Is(err, cause) || !failed {
				t.Errorf("%v; what undoes was told of the failure: %v", err, failed)
			}
		})
	}
}

func TestStageKeepsWhatIsToStay(t *testing.T) {
	var dir string
	err := nettest.OnStage("play", func(s *nettest.Stage) error {
		dir = nettest.NewDir(s, t.TempDir())
		s.Keep()
		return nil
	})
	if _, gone := os.Stat(dir); err != nil || gone != nil {
		t.Errorf("%v; %v", err, gone)
	}
}
