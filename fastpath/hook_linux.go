package fastpath

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// hooks is the table of the programs that stand at links of one network namespace. The key is the hook.
//
// What stands at a hook is asked of the hook itself, and the pins say only which links outlive us: the kernel tells nobody
// when a program is detached, and a pin does not know that its link has nothing to do any more.
type hooks struct {
	dir      string // of the pins
	by       attachment
	home     *home
	programs map[string]*ebpf.Program
	current  map[string]nature // of each of the programs
	mu       sync.Mutex        // a sweep in the midst of a put would take what was just pinned
}

// place is a hook by the number of its link, which is another link's soon after it has gone.
type place struct {
	index int
	way   Way
}

func ways() []Way { return []Way{Ingress, Egress} }

// newHooks makes the table of the hooks in home. The names of the programs are those that Job has; without programs the
// table can be listed and emptied, but not filled. dir is in a bpf file system and has no pins of other namespaces.
func newHooks(dir string, programs map[string]*ebpf.Program, home *home, by attachment) (*hooks, error) {
	h := &hooks{dir: dir, by: by, home: home, programs: programs, current: make(map[string]nature)}
	for name, program := range programs {
		known, err := natureOf(program)
		if err != nil {
			return nil, fmt.Errorf("identify program %s: %w", name, err)
		}
		h.current[name] = known
	}
	return h, nil
}

// mode is how programs are attached: "tcx" or "clsact".
func (h *hooks) mode() string { return string(h.by) }

// List finds the hooks at which a program of ours stands, one that stands there in the wrong way included. It also removes
// pins and marks of links that are gone or have nothing to do any more, of which no row could tell.
func (h *hooks) List(ctx context.Context) (have map[Hook]Job, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	err = h.home.inside(func() error {
		names, err := deviceNames()
		if err != nil {
			return err
		}
		found, err := h.survey(ctx, names)
		if err != nil {
			return err
		}
		have = make(map[Hook]Job, len(found))
		for p, stands := range found {
			have[Hook{Link: names[p.index], Way: p.way}] = job(stands, h.by)
		}
		return nil
	})
	return have, err
}

// survey looks at all hooks of the links.
func (h *hooks) survey(ctx context.Context, names map[int]string) (map[place][]stand, error) {
	kinds, err := qdiscKinds()
	if err != nil {
		return nil, err
	}
	left, err := h.leftovers()
	if err != nil {
		return nil, err
	}
	found, seen := make(map[place][]stand), newAcquaintance(h.current)
	for index := range names {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		for _, way := range ways() {
			p := place{index, way}
			stands, err := h.look(p, left.pins[p], kinds, seen)
			if err != nil {
				return nil, fmt.Errorf("look at %s %s: %w", names[index], way, err)
			}
			if len(stands) > 0 {
				found[p] = stands
			}
		}
	}
	return found, h.sweep(found, left)
}

// look finds the programs of ours at one hook, for which that link is pinned. The kinds of qdiscs are nil when they were not
// read.
func (h *hooks) look(p place, pin uint32, kinds map[int]string, seen *acquaintance) ([]stand, error) {
	links, err := h.lookLinks(p, pin, seen)
	if err != nil {
		return nil, err
	}
	filters, err := h.lookFilters(p, kinds, seen)
	return append(links, filters...), err
}

// lookAt is look for one hook alone.
func (h *hooks) lookAt(p place) ([]stand, error) {
	pin, err := h.pinnedAt(p)
	if err != nil {
		return nil, err
	}
	return h.look(p, pin, nil, newAcquaintance(h.current))
}

// Put brings the program to the hook. Whatever of ours is there already gets it in the place of what it had, so that no
// packet meets none, and only then go others that are there too.
func (h *hooks) Put(_ context.Context, k Hook, v Job) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.programs[v.Program] == nil {
		return fmt.Errorf("no program is called %q", v.Program)
	}
	return h.home.inside(func() error {
		index, err := deviceIndex(k.Link)
		if err != nil {
			return err
		}
		return waits(h.put(place{index, k.Way}, v.Program))
	})
}

func (h *hooks) put(p place, program string) error {
	if err := os.MkdirAll(h.dir, 0o700); err != nil { // somebody may have removed it with all that was in it
		return fmt.Errorf("make directory of pins: %w", err)
	}
	found, err := h.lookAt(p)
	if err != nil {
		return err
	}
	var kept *stand
	if i := keeper(found, h.by, program); i >= 0 {
		kept = &found[i]
	}
	if h.by == byTCX {
		err = h.putLink(p, program, kept, found)
	} else {
		err = h.putFilter(p, program, kept)
	}
	if err != nil || len(found) == 0 {
		return err
	}
	if found, err = h.lookAt(p); err != nil {
		return err
	}
	if i := keeper(found, h.by, program); i >= 0 {
		found = slices.Delete(found, i, i+1)
	}
	return h.clear(p, found)
}

// Delete takes every program of ours from the hook. Absent is success, and so is a link that is gone with its hooks: List
// removes the pins of those.
func (h *hooks) Delete(_ context.Context, k Hook) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.home.inside(func() error {
		index, err := deviceIndex(k.Link)
		if errors.Is(err, unix.ENODEV) {
			return nil
		}
		if err != nil {
			return err
		}
		return h.empty(place{index, k.Way})
	})
}

// empty takes every program of ours from a hook.
func (h *hooks) empty(p place) error {
	found, err := h.lookAt(p)
	if err != nil {
		return err
	}
	if err := h.clear(p, found); err != nil {
		return err
	}
	return removeEntry(h.pinOf(p))
}

// clear takes programs of ours from a hook.
func (h *hooks) clear(p place, stands []stand) error {
	var errs []error
	filters := false
	for _, s := range stands {
		switch {
		case s.by == byClsact:
			filters = true
			errs = append(errs, deleteFilter(p, s.handle))
		default:
			errs = append(errs, detach(p, s))
		}
	}
	if filters {
		errs = append(errs, h.leaveQdisc(p.index))
	}
	return errors.Join(errs...)
}
