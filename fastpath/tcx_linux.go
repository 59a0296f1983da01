package fastpath

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/cilium/ebpf"
	bpflink "github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

func (w Way) attachType() ebpf.AttachType {
	if w == Ingress {
		return ebpf.AttachTCXIngress
	}
	return ebpf.AttachTCXEgress
}

// lookLinks finds the programs of ours that are attached to a hook by tcx: what is pinned for this hook, and what has a
// name like ours and a map of ours.
func (h *hooks) lookLinks(p place, pin uint32, seen *acquaintance) ([]stand, error) {
	programs, err := attached(p)
	if err != nil {
		return nil, err
	}
	var found []stand
	for _, a := range programs {
		m, err := seen.with(a.ID)
		if err != nil {
			return nil, err
		}
		id, _ := a.LinkID()
		pinned := id != 0 && uint32(id) == pin
		if !pinned && !m.related {
			continue
		}
		found = append(found, stand{
			by: byTCX, link: uint32(id), id: uint32(a.ID), program: m.program, current: m.current, pinned: pinned,
		})
	}
	return found, nil
}

// attached asks a hook what is attached to it by tcx: nothing where the kernel has no tcx, or the link has gone.
func attached(p place) ([]bpflink.AttachedProgram, error) {
	for range dumpTries {
		result, err := bpflink.QueryPrograms(bpflink.QueryOptions{Target: p.index, Attach: p.way.attachType()})
		switch {
		case errors.Is(err, unix.ENOSPC): // one came between the question how many there are and which
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENOENT):
			return nil, nil
		case err != nil:
			return nil, err
		default:
			return result.Programs, nil
		}
	}
	return nil, unix.ENOSPC
}

// pinnedAt is the id of the link that is pinned for a hook, 0 when there is none or it is not there any more: a link whose
// device is gone, and one that somebody detached, has lost its device.
func (h *hooks) pinnedAt(p place) (uint32, error) {
	l, err := loadPin(h.pinOf(p))
	if l == nil || err != nil {
		return 0, err
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return 0, fmt.Errorf("look at pin: %w", err)
	}
	if at := info.TCX(); at == nil || int(at.Ifindex) != p.index || ebpf.AttachType(at.AttachType) != p.way.attachType() {
		return 0, nil
	}
	return uint32(info.ID), nil
}

// loadPin opens a pinned link. It is nil when there is no pin, or something else is pinned there: the error for that bears
// no number, as others do.
func loadPin(path string) (bpflink.Link, error) {
	l, err := bpflink.LoadPinnedLink(path, nil)
	if errno := unix.Errno(0); errors.As(err, &errno) && errno != unix.ENOENT {
		return nil, fmt.Errorf("open pin: %w", err)
	}
	if err != nil {
		return nil, nil
	}
	return l, nil
}

// putLink has the kept link run the program, or a new one behind what others have there, and pins it. A program that is
// there without a link must go first, if it is the same one: the kernel lets no program be twice at a hook.
func (h *hooks) putLink(p place, program string, kept *stand, found []stand) error {
	l, err := h.fasten(p, program, kept)
	if errors.Is(err, unix.EEXIST) {
		bare := slices.DeleteFunc(slices.Clone(found), func(s stand) bool { return s.by != byTCX || s.link != 0 })
		if err := h.clear(p, bare); err != nil {
			return err
		}
		l, err = h.fasten(p, program, kept)
	}
	if err != nil {
		return err
	}
	defer l.Close()
	if kept != nil && kept.pinned {
		return nil
	}
	if err := removeEntry(h.pinOf(p)); err != nil {
		return err
	}
	if err := l.Pin(h.pinOf(p)); err != nil {
		return fmt.Errorf("pin link: %w", err)
	}
	return nil
}

func (h *hooks) fasten(p place, program string, kept *stand) (bpflink.Link, error) {
	if kept == nil {
		l, err := bpflink.AttachTCX(bpflink.TCXOptions{
			Interface: p.index, Program: h.programs[program], Attach: p.way.attachType(), Anchor: bpflink.Tail(),
		})
		if err != nil {
			return nil, fmt.Errorf("attach program: %w", err)
		}
		return l, nil
	}
	l, err := bpflink.NewFromID(bpflink.ID(kept.link))
	if err != nil {
		return nil, fmt.Errorf("open link: %w", err)
	}
	if kept.current && kept.program == program {
		return l, nil
	}
	if err := l.Update(h.programs[program]); err != nil {
		return nil, errors.Join(fmt.Errorf("replace program: %w", err), l.Close())
	}
	return l, nil
}

// detach takes a program from a hook at once. Removing the last pin of its link would do so at some later time.
func detach(p place, s stand) error {
	if s.link == 0 {
		return detachBare(p, s)
	}
	l, err := bpflink.NewFromID(bpflink.ID(s.link))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open link: %w", err)
	}
	defer l.Close()
	return l.Detach()
}

// detachBare does so with a program that is attached without a link.
func detachBare(p place, s stand) error {
	program, err := ebpf.NewProgramFromID(ebpf.ProgramID(s.id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open program: %w", err)
	}
	defer program.Close()
	err = bpflink.RawDetachProgram(bpflink.RawDetachProgramOptions{Target: p.index, Program: program, Attach: p.way.attachType()})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("detach program: %w", err)
	}
	return nil
}
