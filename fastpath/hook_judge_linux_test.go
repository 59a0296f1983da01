package fastpath

import "testing"

func TestJobAndKeeper(t *testing.T) {
	good := stand{by: byTCX, link: 1, program: "from_wire", current: true, pinned: true}
	old := stand{by: byTCX, link: 2, program: "from_wire", pinned: true}
	loose := stand{by: byTCX, link: 3, program: "from_wire", current: true}
	worn := stand{by: byTCX, link: 4, program: "from_wire"}
	bare := stand{by: byTCX, program: "from_wire", current: true}
	filter := stand{by: byClsact, handle: 1, program: "from_wire", current: true, pinned: true}
	stale := stand{by: byClsact, handle: 2, program: "from_wire", pinned: true}
	other := stand{by: byTCX, link: 5, program: "to_wire", current: true, pinned: true}
	for name, c := range map[string]struct {
		found []stand
		by    attachment
		job   Job
		keep  int // for from_wire
	}{
		"as wanted":             {[]stand{good}, byTCX, Job{"from_wire", ""}, 0},
		"filter as wanted":      {[]stand{filter}, byClsact, Job{"from_wire", ""}, 0},
		"another program":       {[]stand{other}, byTCX, Job{"to_wire", ""}, 0},
		"old":                   {[]stand{old}, byTCX, Job{"from_wire", FaultOld}, 0},
		"old filter":            {[]stand{stale}, byClsact, Job{"from_wire", FaultOld}, 0},
		"not pinned":            {[]stand{loose}, byTCX, Job{"from_wire", FaultLoose}, 0},
		"not pinned and old":    {[]stand{worn}, byTCX, Job{"from_wire", FaultLoose}, 0},
		"without a link":        {[]stand{bare}, byTCX, Job{"from_wire", FaultLoose}, -1},
		"a filter for a link":   {[]stand{filter}, byTCX, Job{"from_wire", FaultKind}, -1},
		"a link for a filter":   {[]stand{good}, byClsact, Job{"from_wire", FaultKind}, -1},
		"both":                  {[]stand{filter, good}, byTCX, Job{"from_wire", FaultTwice}, 1},
		"both, by filters":      {[]stand{good, stale}, byClsact, Job{"from_wire", FaultTwice}, 1},
		"twice":                 {[]stand{worn, loose, good}, byTCX, Job{"from_wire", FaultTwice}, 2},
		"current before pinned": {[]stand{old, loose}, byTCX, Job{"from_wire", FaultTwice}, 1},
		"the wanted one first":  {[]stand{other, loose}, byTCX, Job{"to_wire", FaultTwice}, 1},
		"filter twice":          {[]stand{stale, filter}, byClsact, Job{"from_wire", FaultTwice}, 1},
		"without a link, twice": {[]stand{bare, worn}, byTCX, Job{"from_wire", FaultTwice}, 1},
	} {
		if got := job(c.found, c.by); got != c.job {
			t.Errorf("%s: %v, want %v", name, got, c.job)
		}
		if got := keeper(c.found, c.by, "from_wire"); got != c.keep {
			t.Errorf("%s: keeps %d, want %d", name, got, c.keep)
		}
	}
}

func TestNamesOfPinsAndMarks(t *testing.T) {
	h := &hooks{dir: "/d"}
	for _, p := range []place{{1, Ingress}, {77, Egress}} {
		if got, ok := placeOf(h.pinOf(p)[len("/d/"):]); !ok || got != p {
			t.Errorf("%v is read as %v, %v", p, got, ok)
		}
	}
	for _, name := range []string{"link-", "link-7", "link-7-up", "link-x-in", "link-0-in", "link--1-in", "fl_routes4", "clsact-7"} {
		if p, ok := placeOf(name); ok {
			t.Errorf("%s is read as %v", name, p)
		}
	}
	if index, ok := markedBy(h.markOf(7)[len("/d/"):]); !ok || index != 7 {
		t.Errorf("a mark is read as %d, %v", index, ok)
	}
	if index, ok := markedBy("link-7-in"); ok {
		t.Errorf("a pin is read as the mark %d", index)
	}
}
