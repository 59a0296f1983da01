package fastpath

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	bpflink "github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// loopback is the number of the only link that a new network namespace has.
const loopback = 1

// usable finds out how programs can be attached here, by doing so with one that does nothing, at the loopback of a network
// namespace that lives no longer than this call: whoever is killed in the midst of it leaves nothing. An error says why
// the fast path can not be had.
func usable() (by attachment, err error) {
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: namePrefix + "try", Type: ebpf.SchedCLS, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()}, // TC_ACT_UNSPEC: whatever comes next
	})
	if err != nil {
		return "", lacks(err, "eBPF is not allowed here (CAP_BPF, CAP_NET_ADMIN)", "load a program")
	}
	defer program.Close()
	if err := canLook(program); err != nil {
		return "", lacks(err, "what is attached can not be looked at here (CAP_SYS_ADMIN)", "look at a program")
	}
	err = apart(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		by, err = tryBoth(program)
		return err
	})
	return by, err
}

// lacks says plainly what is not allowed. The library adds its guesses to EPERM, which are left out.
func lacks(err error, forbidden, verb string) error {
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%s: %w", forbidden, unix.EPERM)
	}
	return fmt.Errorf("%s: %w", verb, err)
}

func canLook(program *ebpf.Program) error {
	info, err := program.Info()
	if err != nil {
		return err
	}
	id, ok := info.ID()
	if !ok {
		return errors.New("the kernel tells no ids of programs (Linux 4.13)")
	}
	again, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return err
	}
	return again.Close()
}

// tryBoth attaches the program to the thread's loopback.
func tryBoth(program *ebpf.Program) (attachment, error) {
	l, tcx := bpflink.AttachTCX(bpflink.TCXOptions{Interface: loopback, Program: program, Attach: ebpf.AttachTCXIngress})
	if tcx == nil {
		return byTCX, l.Close()
	}
	filter := tryFilter(program)
	if filter == nil {
		return byClsact, nil
	}
	return "", fmt.Errorf("this kernel attaches no programs to links: tcx (Linux 6.6): %w; filters: %w", tcx, filter)
}

func tryFilter(program *ebpf.Program) error {
	if err := netlink.QdiscAdd(clsact(loopback)); err != nil {
		return fmt.Errorf("make clsact qdisc: %w", err)
	}
	return setFilter(netlink.FilterAdd, newFilter(place{loopback, Ingress}, "try", program, 0))
}
