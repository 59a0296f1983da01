package fastpath

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

const (
	ours   = "fl_"  // begins the names of maps that are pinned
	beside = "-new" // ends the name of a pin that is about to replace another
)

// Moved says what became of a map that was pinned and did not fit any more.
type Moved struct {
	Map  string
	Why  string // one line
	Kept int    // entries that are in the new one too
	Lost int    // that are not
}

func (m Moved) String() string {
	return fmt.Sprintf("map %s made anew: %s; %d entries kept, %d lost", m.Map, m.Why, m.Kept, m.Lost)
}

// pinnedMaps are the maps of the programs.
type pinnedMaps struct {
	dir   string
	all   map[string]*ebpf.Map
	old   map[string]*ebpf.Map // what programs use that are not replaced yet, of those that were made anew
	moved []Moved

	inodes map[string]uint64 // of the pins, to see that they are still those
}

// adoptMaps takes over the maps that are pinned in a directory, and makes anew those that are missing or not as the
// programs want them, with what was in them as far as it fits. The maps of spec get the sizes. The directory is locked.
//
// A new map takes the place of the old one only when it is filled, by one rename: whoever is killed meanwhile leaves the
// old one, and programs that are attached use that one until they are replaced.
func adoptMaps(dir string, spec *ebpf.CollectionSpec, sizes Sizes) (_ *pinnedMaps, err error) {
	p := &pinnedMaps{
		dir: dir, all: make(map[string]*ebpf.Map), old: make(map[string]*ebpf.Map), inodes: make(map[string]uint64),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	for _, name := range slices.Sorted(maps.Keys(spec.Maps)) {
		if !strings.HasPrefix(name, ours) {
			continue
		}
		if n := sizes.entries(name); n != 0 {
			spec.Maps[name].MaxEntries = n
		}
		if err := p.adopt(name, spec.Maps[name]); err != nil {
			return nil, fmt.Errorf("adopt map %s: %w", name, err)
		}
	}
	return p, p.remember()
}

// entries is how many a map has room for; 0: as it was compiled.
func (s Sizes) entries(name string) uint32 {
	s = s.orDefault()
	switch strings.TrimRight(name, "46") {
	case "fl_endpoints", "fl_sides":
		return uint32(s.Endpoints)
	case "fl_routes":
		return uint32(s.Routes) + 1 // before Linux 6.13 a row is replaced only where there is room for another
	case "fl_nodes":
		return uint32(s.Routes)
	case "fl_flows":
		return uint32(s.Flows)
	case "fl_tuples":
		return uint32(2 * s.Connections) // each from either side
	case "fl_counts":
		return uint32(s.Endpoints + s.Routes)
	}
	return 0
}

func (p *pinnedMaps) adopt(name string, want *ebpf.MapSpec) error {
	path := filepath.Join(p.dir, name)
	os.Remove(path + beside) // of somebody who was killed
	old, err := ebpf.LoadPinnedMap(path, nil)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		os.Remove(path) // no map at all
	}
	why := ""
	if old != nil {
		if why = differs(old, want); why == "" {
			p.all[name] = old
			return nil
		}
		p.old[name] = old
	}
	fresh, err := ebpf.NewMap(want)
	if err != nil {
		return fmt.Errorf("make: %w", err)
	}
	p.all[name] = fresh
	if old != nil {
		p.moved = append(p.moved, carry(old, fresh, want, why))
	}
	return pinOver(fresh, path)
}

// pinOver gives a map the name, whatever has it.
func pinOver(m *ebpf.Map, path string) error {
	os.Remove(path + beside)
	pin, err := m.Clone() // one that was pinned elsewhere before would be moved
	if err != nil {
		return err
	}
	defer pin.Close()
	if err := pin.Pin(path + beside); err != nil {
		return fmt.Errorf("pin: %w", err)
	}
	if err := os.Rename(path+beside, path); err != nil {
		return fmt.Errorf("replace the pin: %w", err)
	}
	return nil
}

// remember notes which pins are ours.
func (p *pinnedMaps) remember() error {
	for name := range p.all {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(p.dir, name), &st); err != nil {
			return fmt.Errorf("look at pin %s: %w", name, err)
		}
		p.inodes[name] = st.Ino
	}
	return nil
}

// isPinned tells whether a map has still the pin that it was given.
func (p *pinnedMaps) isPinned(name string) bool {
	var st unix.Stat_t
	return unix.Stat(filepath.Join(p.dir, name), &st) == nil && st.Ino == p.inodes[name]
}

// arePinned tells that of all maps.
func (p *pinnedMaps) arePinned() bool {
	for name := range p.all {
		if !p.isPinned(name) {
			return false
		}
	}
	return true
}

// repin gives maps their pins back that somebody took away.
func (p *pinnedMaps) repin() error {
	if p.arePinned() {
		return nil
	}
	lock, err := lockDir(p.dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	for name, m := range p.all {
		if p.isPinned(name) {
			continue
		}
		if err := pinOver(m, filepath.Join(p.dir, name)); err != nil {
			return fmt.Errorf("map %s: %w", name, err)
		}
	}
	return p.remember()
}

// differs says why a map is not what is wanted, "" when it is. The kernel keeps the types of keys and values with a map, so
// that a field that moved is seen also where the size is the same.
func differs(have *ebpf.Map, want *ebpf.MapSpec) string {
	if err := want.Compatible(have); err != nil {
		return strings.TrimSuffix(err.Error(), ": "+ebpf.ErrMapIncompatible.Error())
	}
	if !isLaidOut(have, want) {
		return "the layout changed"
	}
	return ""
}

// isLaidOut tells whether keys and values are made as is wanted. What is in a ring buffer has no type that the kernel knows.
func isLaidOut(have *ebpf.Map, want *ebpf.MapSpec) bool {
	if want.Type == ebpf.RingBuf {
		return true
	}
	handle, err := have.Handle()
	if err != nil {
		return false
	}
	defer handle.Close()
	known, err := handle.Spec(nil)
	return err == nil && hasShape(known, want.Key) && hasShape(known, want.Value)
}

// hasShape tells whether there is a type of the name and the shape.
func hasShape(known *btf.Spec, want btf.Type) bool {
	if want == nil || want.TypeName() == "" {
		return false
	}
	all, err := known.AnyTypesByName(want.TypeName())
	return err == nil && slices.ContainsFunc(all, func(have btf.Type) bool { return shape(have) == shape(want) })
}

// shape is where everything in a type is, in words.
func shape(t btf.Type) string {
	var members []btf.Member
	switch t := btf.UnderlyingType(t).(type) {
	case *btf.Array:
		return fmt.Sprintf("%d*%s", t.Nelems, shape(t.Type))
	case *btf.Struct:
		members = t.Members
	case *btf.Union:
		members = t.Members
	default:
		size, _ := btf.Sizeof(t)
		return fmt.Sprintf("%T%d", t, size)
	}
	var s strings.Builder
	for _, m := range members {
		fmt.Fprintf(&s, "%s@%d:%s;", m.Name, m.Offset, shape(m.Type))
	}
	return "{" + s.String() + "}"
}

// catchUp takes over the flows and connections that old programs have noted since the maps were made anew, and lets go of the old maps. It
// is for when all programs have been replaced.
func (p *pinnedMaps) catchUp() error {
	var errs []error
	for name, old := range p.old {
		if (strings.HasPrefix(name, "fl_flows") || name == "fl_tuples") && fits(old, p.all[name]) {
			errs = append(errs, pour(old, p.all[name]))
		}
		errs = append(errs, old.Close())
	}
	clear(p.old)
	return errors.Join(errs...)
}

// close lets go of the maps. What is pinned stays.
func (p *pinnedMaps) close() error {
	var errs []error
	for _, m := range p.all {
		errs = append(errs, m.Close())
	}
	for _, m := range p.old {
		errs = append(errs, m.Close())
	}
	clear(p.all)
	clear(p.old)
	return errors.Join(errs...)
}
