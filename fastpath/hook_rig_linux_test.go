package fastpath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	bpflink "github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/nettest"
	"github.com/fairlead-net/fairlead/reconcile"
)

// Slots of the counter: of our programs by their names, and of those of others.
const (
	slotTheirs = 8
	slotsInAll = 16
)

func hookSlots() map[string]int {
	return map[string]int{"from_container": 0, "to_container": 1, "from_wire": 2, "to_wire": 3}
}

// hookRig is a host a with the link p0, whose other end p1 is at b.
type hookRig struct {
	t       *testing.T
	a, b    *nettest.Host
	home    *home
	dir     string
	counter *ebpf.Map // packets by the slots of the programs that met them
	tcx     bool      // the kernel, asked, has it: Linux 6.6
}

func newHookRig(t *testing.T) *hookRig {
	t.Helper()
	r := &hookRig{t: t, a: nettest.NewHost(t, "a"), b: nettest.NewHost(t, "b")}
	r.dir = filepath.Join(nettest.MountPins(t, nettest.NewDir(t, "")), "fast")
	r.must(os.Mkdir(r.dir, 0o700))
	r.wire()
	r.must(r.a.Do(func() (err error) { r.home, err = openHome(); return err }))
	t.Cleanup(func() { r.must(r.home.close()) })
	var err error
	r.counter, err = ebpf.NewMap(counterSpec())
	r.must(err)
	t.Cleanup(func() { r.counter.Close() })
	r.tcx = r.hasTCX()
	return r
}

// wire connects the hosts. The links are silent: nothing is sent by them but by the test.
func (r *hookRig) wire() {
	r.t.Helper()
	for _, h := range []*nettest.Host{r.a, r.b} {
		h.Sysctl("net/ipv6/conf/default/disable_ipv6", "1")
	}
	nettest.Wire(r.t, r.a, "p0", r.b, "p1")
}

// both runs a test with each way to attach programs, and its table of hooks.
func both(t *testing.T, test func(r *hookRig, h *hooks)) {
	t.Helper()
	for _, by := range []attachment{byTCX, byClsact} {
		t.Run(string(by), func(t *testing.T) {
			r := newHookRig(t)
			test(r, r.hooks(by, 1))
		})
	}
}

func counterSpec() *ebpf.MapSpec {
	return &ebpf.MapSpec{Name: "fl_counts", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: slotsInAll}
}

// counting is a program that counts packets in a slot and leaves them to whatever comes next. Programs of different
// versions do the same by different code.
func counting(name string, counter *ebpf.Map, slot, version int) (*ebpf.Program, error) {
	return ebpf.NewProgram(&ebpf.ProgramSpec{Name: name, Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.Mov.Imm(asm.R7, int32(version)),
		asm.StoreImm(asm.RFP, -4, int64(slot), asm.Word),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.LoadMapPtr(asm.R1, counter.FD()),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),
		asm.Mov.Imm(asm.R1, 1),
		asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R0, -1).WithSymbol("out"), // TC_ACT_UNSPEC
		asm.Return(),
	}})
}

func countingAll(counter *ebpf.Map, version int) (map[string]*ebpf.Program, error) {
	all := make(map[string]*ebpf.Program)
	for name, slot := range hookSlots() {
		p, err := counting(namePrefix+name, counter, slot, version)
		if err != nil {
			return nil, err
		}
		all[name] = p
	}
	return all, nil
}

// hooks is the table as a daemon with programs of a version has it.
func (r *hookRig) hooks(by attachment, version int) *hooks {
	r.t.Helper()
	if by == byTCX && !r.tcx {
		r.t.Skip("the kernel, asked, has no tcx (Linux 6.6)")
	}
	all, err := countingAll(r.counter, version)
	r.must(err)
	r.t.Cleanup(func() {
		for _, p := range all {
			p.Close()
		}
	})
	h, err := newHooks(r.dir, all, r.home, by)
	r.must(err)
	return h
}

// hasTCX asks the kernel, by attaching a program where nothing else is.
func (r *hookRig) hasTCX() bool {
	r.t.Helper()
	p := r.theirs("try", slotTheirs)
	err := r.a.Do(func() error {
		l, err := bpflink.AttachTCX(bpflink.TCXOptions{Interface: loopback, Program: p, Attach: Egress.attachType()})
		if err != nil {
			return err
		}
		return l.Close()
	})
	if !errors.Is(err, bpflink.ErrNotSupported) {
		r.must(err)
	}
	return err == nil
}

// theirs is a program of somebody else.
func (r *hookRig) theirs(name string, slot int) *ebpf.Program {
	r.t.Helper()
	counter, err := ebpf.NewMap(counterSpec()) // named like ours, and is not ours
	r.must(err)
	defer counter.Close()
	p, err := counting(name, counter, slot, 0)
	r.must(err)
	r.t.Cleanup(func() { p.Close() })
	return p
}

// met is how many packets a program of somebody else has met.
func (r *hookRig) met(p *ebpf.Program, slot int) uint64 {
	r.t.Helper()
	info, err := p.Info()
	r.must(err)
	ids, _ := info.MapIDs()
	m, err := ebpf.NewMapFromID(ids[0])
	r.must(err)
	defer m.Close()
	return r.read(m, slot)
}

func (r *hookRig) read(m *ebpf.Map, slot int) (n uint64) {
	r.t.Helper()
	r.must(m.Lookup(uint32(slot), &n))
	return n
}

// send sends frames by a link of a host.
func (r *hookRig) send(h *nettest.Host, name string, frames int) {
	r.t.Helper()
	r.must(h.Do(func() error { return sendFrames(name, frames) }))
}

func sendFrames(name string, frames int) error {
	index, err := deviceIndex(name)
	if err != nil {
		return err
	}
	const experimental = 0x88b5 // IEEE 802 local experimental ethertype
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	frame := make([]byte, 64)
	copy(frame, "\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x01\x88\xb5")
	for range frames {
		if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: index, Protocol: experimental}); err != nil {
			return err
		}
	}
	return nil
}

// meet sends frames each way and tells how many each of our programs has met of them.
func (r *hookRig) meet(frames int) map[string]int {
	r.t.Helper()
	was := make(map[string]uint64)
	for name, slot := range hookSlots() {
		was[name] = r.read(r.counter, slot)
	}
	r.send(r.b, "p1", frames)
	r.send(r.a, "p0", frames)
	time.Sleep(2 * time.Millisecond) // a frame is taken in after it was sent, by the same processor mostly
	met := make(map[string]int)
	for name, slot := range hookSlots() {
		if n := r.read(r.counter, slot) - was[name]; n > 0 {
			met[name] = int(n)
		}
	}
	return met
}

func (r *hookRig) wantMet(what string, want map[string]int) {
	r.t.Helper()
	var got map[string]int
	for range 50 { // the machine may be too busy to take frames in at once
		if got = r.meet(10); cmp.Equal(want, got) {
			return
		}
	}
	r.t.Errorf("%s: of 10 packets each way these were met: %v, want %v", what, got, want)
}

// settle brings the hooks to what is wanted in one pass, and checks that a second has nothing to do.
func (r *hookRig) settle(h *hooks, want map[Hook]Job) {
	r.t.Helper()
	table := reconcile.NewTable("hook", h)
	if p := reconcile.Climb(r.t.Context(), table.Rung(want, nil)); !p.Clean() {
		r.t.Fatalf("settle: %v", p.Err())
	}
	r.want(h, want)
	if p := reconcile.Climb(r.t.Context(), table.Rung(want, nil)); !p.Clean() || p.Total() != 0 {
		r.t.Fatalf("second pass: %+v", p)
	}
}

func (r *hookRig) want(h *hooks, want map[Hook]Job) {
	r.t.Helper()
	have, err := h.List(r.t.Context())
	r.must(err)
	if diff := cmp.Diff(want, have); diff != "" {
		r.t.Fatalf("hooks (-want +have):\n%s", diff)
	}
}

// there is what stands at a hook of p0, asked without our code: names of programs, in their order.
func (r *hookRig) there(way Way) (names []string) {
	r.t.Helper()
	r.must(r.a.Do(func() error {
		index, err := deviceIndex("p0")
		if err != nil {
			return err
		}
		result, err := bpflink.QueryPrograms(bpflink.QueryOptions{Target: index, Attach: way.attachType()})
		if errors.Is(err, unix.EINVAL) && !r.tcx {
			return nil
		}
		if err != nil {
			return err
		}
		for _, a := range result.Programs {
			p, err := ebpf.NewProgramFromID(a.ID)
			if err != nil {
				return err
			}
			info, err := p.Info()
			p.Close()
			if err != nil {
				return err
			}
			names = append(names, info.Name[:min(15, len(info.Name))])
		}
		return nil
	}))
	flag := map[Way]string{Ingress: "ingress", Egress: "egress"}[way]
	for line := range strings.Lines(r.a.Run("tc", "filter", "show", "dev", "p0", flag)) {
		if at := slices.Index(strings.Fields(line), "handle"); at >= 0 && strings.Contains(line, " bpf ") {
			names = append(names, "filter "+strings.Fields(line)[at+2])
		}
	}
	return names
}

// left is the entries of the directory of pins.
func (r *hookRig) left() (names []string) {
	r.t.Helper()
	entries, err := os.ReadDir(r.dir)
	r.must(err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func (r *hookRig) index() (index int) {
	r.t.Helper()
	r.must(r.a.Do(func() (err error) { index, err = deviceIndex("p0"); return err }))
	return index
}

// nothing checks that nothing of ours is left.
func (r *hookRig) nothing() {
	r.t.Helper()
	if in, out := r.there(Ingress), r.there(Egress); len(in)+len(out) > 0 {
		r.t.Errorf("left at the hooks: %v, %v", in, out)
	}
	if qdiscs := r.a.Run("tc", "qdisc", "show", "dev", "p0"); strings.Contains(qdiscs, "clsact") {
		r.t.Errorf("left: %s", qdiscs)
	}
	if names := r.left(); len(names) > 0 {
		r.t.Errorf("left in the directory of pins: %v", names)
	}
}

// filterOfTheirs puts a filter of somebody else.
func (r *hookRig) filterOfTheirs(p *ebpf.Program, way Way, priority uint16, name string) {
	r.t.Helper()
	index := r.index()
	r.must(r.a.Do(func() error {
		if err := netlink.QdiscAdd(clsact(index)); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("qdisc: %w", err)
		}
		f := newFilter(place{index, way}, "", p, 0)
		f.Name, f.Priority = name, priority
		return netlink.FilterAdd(f)
	}))
}

// linkOfTheirs attaches a program of somebody else for the rest of the test.
func (r *hookRig) linkOfTheirs(p *ebpf.Program, way Way, anchor bpflink.Anchor) bpflink.Link {
	r.t.Helper()
	var l bpflink.Link
	index := r.index()
	r.must(r.a.Do(func() (err error) {
		l, err = bpflink.AttachTCX(bpflink.TCXOptions{Interface: index, Program: p, Attach: way.attachType(), Anchor: anchor})
		return err
	}))
	r.t.Cleanup(func() { l.Close() })
	return l
}

// within runs fn, which may end the test, in the namespace of a.
func (r *hookRig) within(fn func()) {
	r.t.Helper()
	runtime.LockOSThread() // stays so if the test ends in fn
	here, err := openHome()
	r.must(err)
	r.must(unix.Setns(r.home.ns, unix.CLONE_NEWNET))
	fn()
	r.must(unix.Setns(here.ns, unix.CLONE_NEWNET))
	r.must(here.close())
	runtime.UnlockOSThread()
}

func (r *hookRig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func containerHooks() map[Hook]Job {
	return map[Hook]Job{{"p0", Ingress}: {Program: "from_container"}, {"p0", Egress}: {Program: "to_container"}}
}

func wireHooks() map[Hook]Job {
	return map[Hook]Job{{"p0", Ingress}: {Program: "from_wire"}, {"p0", Egress}: {Program: "to_wire"}}
}
