package fastpath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// The names of what is in the directory of pins: link-7-in is a link, clsact-7 an empty directory that marks a link whose
// clsact qdisc is from us, since the qdisc itself has no room for a name.
const (
	pinPrefix  = "link-"
	markPrefix = "clsact-"
)

func (h *hooks) pinOf(p place) string {
	return filepath.Join(h.dir, pinPrefix+strconv.Itoa(p.index)+"-"+string(p.way))
}

func (h *hooks) markOf(index int) string { return filepath.Join(h.dir, markPrefix+strconv.Itoa(index)) }

// placeOf reads the name of a pin.
func placeOf(pin string) (p place, ok bool) {
	rest, ok := strings.CutPrefix(pin, pinPrefix)
	number, way, _ := strings.Cut(rest, "-")
	index, err := strconv.Atoi(number)
	p = place{index, Way(way)}
	return p, ok && err == nil && index > 0 && (p.way == Ingress || p.way == Egress)
}

// markedBy reads the name of a mark.
func markedBy(mark string) (index int, ok bool) {
	number, ok := strings.CutPrefix(mark, markPrefix)
	index, err := strconv.Atoi(number)
	return index, ok && err == nil && index > 0
}

// leftovers is what the directory has for links.
type leftovers struct {
	pins  map[place]uint32 // the id of the link; 0: it is not at the hook that the name says
	marks []int
}

func (h *hooks) leftovers() (left leftovers, err error) {
	entries, err := os.ReadDir(h.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return left, fmt.Errorf("read directory of pins: %w", err)
	}
	left.pins = make(map[place]uint32)
	for _, e := range entries {
		if p, ok := placeOf(e.Name()); ok {
			if left.pins[p], err = h.pinnedAt(p); err != nil {
				return left, err
			}
		}
		if index, ok := markedBy(e.Name()); ok {
			left.marks = append(left.marks, index)
		}
	}
	return left, nil
}

// sweep removes what has nothing to do any more: pins of links whose device is gone or that somebody detached, none of
// which can ever come back to life, and qdiscs from us below which nothing of ours is.
func (h *hooks) sweep(found map[place][]stand, left leftovers) error {
	var errs []error
	for p, id := range left.pins {
		if id == 0 {
			errs = append(errs, removeEntry(h.pinOf(p)))
		}
	}
	filtered := make(map[int]bool)
	for p, stands := range found {
		for _, s := range stands {
			filtered[p.index] = filtered[p.index] || s.by == byClsact
		}
	}
	for _, index := range left.marks {
		if !filtered[index] {
			errs = append(errs, h.leaveQdisc(index))
		}
	}
	return errors.Join(errs...)
}

// removeEntry removes a pin or a mark. Absent is success.
func removeEntry(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", filepath.Base(path), err)
	}
	return nil
}
