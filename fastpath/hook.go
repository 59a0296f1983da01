package fastpath

import "slices"

// Way is a direction of packets at a link.
type Way string

const (
	Ingress Way = "in"  // packets that come in by the link
	Egress  Way = "out" // packets that leave by it
)

// Hook is a place at which each packet meets the programs that stand there.
type Hook struct {
	Link string // name of the link
	Way  Way
}

func (h Hook) String() string { return h.Link + " " + string(h.Way) }

// Job is the program of ours at a hook. Programs of others at the same hook are not seen.
type Job struct {
	Program string // "from_container", "to_wire" and the like
	Fault   string // what is wrong with it, one word; never wanted
}

// FromWire is the program of an uplink that hands what comes in to the endpoints.
const FromWire = "from_wire"

// The faults of jobs, one word each, beside those of the other rows.
const (
	FaultTwice = "twice" // more than one program of ours is there
	FaultKind  = "kind"  // it is attached by filter where links are to be had, or the other way round
	FaultLoose = "loose" // it is not pinned, and ends with whoever attached it
	FaultOld   = "old"   // it is not the code, or has not the maps, of now
)

func (j Job) String() string { return faulty(j.Program, j.Fault) }

// attachment is a way to bring a program to a hook.
type attachment string

const (
	byTCX    attachment = "tcx"    // links that are pinned; Linux 6.6
	byClsact attachment = "clsact" // filters in direct action mode
)

// stand is one program of ours at a hook, as it was found.
type stand struct {
	by      attachment
	link    uint32 // id of the link; 0: it is attached without one
	handle  uint32 // of the filter
	id      uint32 // of the program
	program string // its name as in Job
	current bool   // it has the code and the maps of now, and is run as ours are
	pinned  bool   // it outlives whoever attached it, as a filter always does
}

// job is what List says of a hook where these were found.
func job(found []stand, by attachment) Job {
	s := slices.MaxFunc(found, func(a, b stand) int { return a.rank(by, "") - b.rank(by, "") })
	switch {
	case len(found) > 1:
		return Job{Program: s.program, Fault: FaultTwice}
	case s.by != by:
		return Job{Program: s.program, Fault: FaultKind}
	case !s.pinned:
		return Job{Program: s.program, Fault: FaultLoose}
	case !s.current:
		return Job{Program: s.program, Fault: FaultOld}
	}
	return Job{Program: s.program}
}

// keeper is the index of what stays when the others go, -1 when nothing can.
func keeper(found []stand, by attachment, program string) int {
	best := -1
	for i, s := range found {
		if r := s.rank(by, program); r > 0 && (best < 0 || r > found[best].rank(by, program)) {
			best = i
		}
	}
	return best
}

// rank says how near this is to the program attached by that; "" is any program. What runs the current program comes before
// what is pinned: the kernel lets no program be twice at a hook, so that it could not be brought into the other.
func (s stand) rank(by attachment, program string) int {
	wanted := s.current && (program == "" || s.program == program)
	switch {
	case s.by != by, by == byTCX && s.link == 0: // only a link can be pinned
		return 0
	case wanted && s.pinned:
		return 4
	case wanted:
		return 3
	case s.pinned:
		return 2
	}
	return 1
}
