package fastpath

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	bpflink "github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// allowed has another process say what it can do with no more than these capabilities.
const allowed = "FAIRLEAD_TEST_ALLOWED"

// asker is what that process does.
func asker() {
	runtime.LockOSThread()
	set := uint64(0)
	for name, bit := range map[string]int{"bpf": unix.CAP_BPF, "net": unix.CAP_NET_ADMIN, "sys": unix.CAP_SYS_ADMIN} {
		if strings.Contains(os.Getenv(allowed), name) {
			set |= 1 << bit
		}
	}
	data := [2]unix.CapUserData{{Effective: uint32(set), Permitted: uint32(set)}, {Effective: uint32(set >> 32), Permitted: uint32(set >> 32)}}
	if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &data[0]); err != nil {
		fmt.Println("drop capabilities:", err)
		return
	}
	by, err := usable()
	fmt.Printf("by=%q err=%v\n", by, err)
}

func TestUsableSaysWhatIsMissing(t *testing.T) {
	by := byClsact
	if newHookRig(t).tcx {
		by = byTCX
	}
	for caps, want := range map[string]string{
		"none":        `by="" err=eBPF is not allowed here (CAP_BPF, CAP_NET_ADMIN): operation not permitted`,
		"bpf":         `by="" err=eBPF is not allowed here (CAP_BPF, CAP_NET_ADMIN): operation not permitted`,
		"bpf net":     `by="" err=what is attached can not be looked at here (CAP_SYS_ADMIN): operation not permitted`,
		"bpf net sys": fmt.Sprintf("by=%q err=<nil>", by),
	} {
		child := again(t, allowed+"="+caps)
		out, err := child.CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != want {
			t.Errorf("with %s: %v, %s, want %s", caps, err, out, want)
		}
	}
}

// TestTrialAgreesWithTheKernel: where tcx can be had it is found, and the filters that are tried otherwise can be had too.
// Nothing of the trial is seen from outside.
func TestTrialAgreesWithTheKernel(t *testing.T) {
	r := newHookRig(t)
	qdiscs := r.a.Run("tc", "qdisc", "show")
	p := r.theirs("fl_try", slotTheirs)
	var tcx error
	r.within(func() {
		l, err := bpflink.AttachTCX(bpflink.TCXOptions{Interface: r.index(), Program: p, Attach: ebpf.AttachTCXEgress})
		if err == nil {
			l.Close()
		}
		tcx = err
		by, err := usable()
		r.must(err)
		if (tcx == nil) != (by == byTCX) {
			t.Errorf("usable by %s, and tcx says: %v", by, tcx)
		}
	})
	if tcx != nil && !errors.Is(tcx, bpflink.ErrNotSupported) {
		t.Errorf("tcx: %v", tcx)
	}
	r.must(apart(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		return tryFilter(p)
	}))
	if now := r.a.Run("tc", "qdisc", "show"); now != qdiscs {
		t.Errorf("before:\n%safter:\n%s", qdiscs, now)
	}
}
