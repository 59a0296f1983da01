package fastpath

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// namePrefix begins the names of our programs and maps in the kernel, which cuts them to nameSize bytes.
const (
	namePrefix = "fl_"
	nameSize   = unix.BPF_OBJ_NAME_LEN - 1
)

// nature is what a program is known by: another with the same code and the same maps is as good.
type nature struct {
	name string // in the kernel
	tag  string // of the code
	maps []ebpf.MapID
}

func natureOf(program *ebpf.Program) (nature, error) {
	info, err := program.Info()
	if err != nil {
		return nature{}, err
	}
	maps, _ := info.MapIDs() // none where the kernel does not tell
	return nature{name: info.Name[:min(len(info.Name), nameSize)], tag: info.Tag, maps: maps}, nil
}

// acquaintance is the programs that were met in one look at the kernel: a few of them stand at hundreds of hooks.
type acquaintance struct {
	current map[string]nature
	ours    map[ebpf.MapID]bool // the maps of the current programs
	met     map[ebpf.ProgramID]met
}

// met is what a program is to us.
type met struct {
	program string // its name as in Job; "" when it is not one of ours
	current bool
	related bool // it has a name like ours and one of our maps
}

func newAcquaintance(current map[string]nature) *acquaintance {
	a := &acquaintance{current: current, ours: make(map[ebpf.MapID]bool), met: make(map[ebpf.ProgramID]met)}
	for _, known := range current {
		for _, id := range known.maps {
			a.ours[id] = true
		}
	}
	return a
}

// with tells what a program is. One that has gone meanwhile is a stranger.
func (a *acquaintance) with(id ebpf.ProgramID) (met, error) {
	if m, known := a.met[id]; known {
		return m, nil
	}
	program, err := ebpf.NewProgramFromID(id)
	if errors.Is(err, fs.ErrNotExist) {
		return met{}, nil
	}
	if err != nil {
		return met{}, fmt.Errorf("look at program %d: %w", id, err)
	}
	defer program.Close()
	is, err := natureOf(program)
	if err != nil {
		return met{}, fmt.Errorf("look at program %d: %w", id, err)
	}
	a.met[id] = a.judge(is)
	return a.met[id], nil
}

func (a *acquaintance) judge(is nature) met {
	rest, ours := strings.CutPrefix(is.name, namePrefix)
	if !ours {
		return met{}
	}
	m := met{program: rest, related: slices.ContainsFunc(is.maps, func(id ebpf.MapID) bool { return a.ours[id] })}
	for name, known := range a.current {
		if known.name == is.name {
			m.program = name // the kernel may have cut it
			m.current = known.tag == is.tag && slices.Equal(known.maps, is.maps)
		}
	}
	return m
}
