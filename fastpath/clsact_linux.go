package fastpath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/reconcile"
)

const (
	filterPrefix   = "fairlead:" // begins the names of our filters
	filterPriority = 0xC058      // of our filters: behind those of others, for which the kernel counts down from 0xC000
	clsactKind     = "clsact"
	ingressKind    = "ingress" // a qdisc with the hook for what comes in alone
)

// qdiscKinds reads which links have a qdisc that filters can be put below, and of which kind.
func qdiscKinds() (kinds map[int]string, err error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETQDISC, unix.NLM_F_DUMP)
	req.AddData(&nl.TcMsg{Family: nl.FAMILY_ALL})
	err = dump(req, unix.RTM_NEWQDISC, func() { kinds = make(map[int]string) }, func(body []byte) {
		if index, kind := parseQdisc(body); kind != "" {
			kinds[index] = kind
		}
	})
	if err != nil {
		return nil, fmt.Errorf("read qdiscs: %w", err)
	}
	return kinds, nil
}

// isBelow tells whether a qdisc of the kind has the hook for the way.
func (w Way) isBelow(kind string) bool {
	return kind == clsactKind || kind == ingressKind && w == Ingress
}

func parseQdisc(body []byte) (index int, kind string) {
	if len(body) < nl.SizeofTcMsg || number(body[12:]) != netlink.HANDLE_CLSACT {
		return 0, ""
	}
	return int(number(body[4:])), unix.ByteSliceToString(attribute(body[nl.SizeofTcMsg:], nl.TCA_KIND))
}

func (w Way) parent() uint32 {
	if w == Ingress {
		return netlink.HANDLE_MIN_INGRESS
	}
	return netlink.HANDLE_MIN_EGRESS
}

// filter is what is known of one filter. All but the kind is of filters that are programs.
type filter struct {
	kind     string
	handle   uint32
	priority uint16
	name     string
	program  uint32
	direct   bool // the program says what becomes of the packet
}

func (f filter) isOurs() bool {
	return f.kind == "bpf" && f.priority == filterPriority && strings.HasPrefix(f.name, filterPrefix)
}

// filters reads all filters at a hook, none where there is no qdisc or the link has gone. Of others' the kind alone is
// understood, since they may be of any.
func filters(p place) (all []filter, err error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETTFILTER, unix.NLM_F_DUMP)
	req.AddData(&nl.TcMsg{Family: nl.FAMILY_ALL, Ifindex: int32(p.index), Parent: p.way.parent()})
	err = dump(req, unix.RTM_NEWTFILTER, func() { all = nil }, func(body []byte) { all = append(all, parseFilter(body)) })
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return nil, fmt.Errorf("read filters: %w", err)
	}
	return all, nil
}

func parseFilter(body []byte) filter {
	if len(body) < nl.SizeofTcMsg {
		return filter{}
	}
	rest := body[nl.SizeofTcMsg:]
	f := filter{
		kind:   unix.ByteSliceToString(attribute(rest, nl.TCA_KIND)),
		handle: number(body[8:]), priority: uint16(number(body[16:]) >> 16),
	}
	if f.kind == "bpf" {
		options := attribute(rest, nl.TCA_OPTIONS)
		f.name = unix.ByteSliceToString(attribute(options, nl.TCA_BPF_NAME))
		f.program = number(attribute(options, nl.TCA_BPF_ID))
		f.direct = number(attribute(options, nl.TCA_BPF_FLAGS))&nl.TCA_BPF_FLAG_ACT_DIRECT != 0
	}
	return f
}

// lookFilters finds our filters at a hook: those that have the name and the priority that ours have. The kinds of qdiscs
// are read if they are not known, and matter: below one of the kind ingress the kernel shows the same filters for either way.
func (h *hooks) lookFilters(p place, kinds map[int]string, seen *acquaintance) ([]stand, error) {
	if kinds != nil && !p.way.isBelow(kinds[p.index]) {
		return nil, nil
	}
	all, err := filters(p)
	if err != nil {
		return nil, err
	}
	var found []stand
	for _, f := range all {
		if !f.isOurs() {
			continue
		}
		m, err := seen.with(ebpf.ProgramID(f.program))
		if err != nil {
			return nil, err
		}
		if m.program == "" {
			m.program = strings.TrimPrefix(f.name, filterPrefix)
		}
		found = append(found, stand{
			by: byClsact, handle: f.handle, id: f.program, program: m.program, current: m.current && f.direct, pinned: true,
		})
	}
	if kinds == nil && p.way == Egress && len(found) > 0 {
		if kinds, err = qdiscKinds(); err == nil && !p.way.isBelow(kinds[p.index]) {
			return nil, nil
		}
	}
	return found, err
}

// putFilter has the kept filter run the program, or a new one behind those of others.
func (h *hooks) putFilter(p place, program string, kept *stand) error {
	if kept != nil && kept.current && kept.program == program {
		return nil
	}
	if kept == nil {
		if err := h.enterQdisc(p); err != nil {
			return err
		}
		return setFilter(netlink.FilterAdd, newFilter(p, program, h.programs[program], 0))
	}
	return setFilter(netlink.FilterReplace, newFilter(p, program, h.programs[program], kept.handle))
}

// newFilter describes a filter of ours. With the handle 0 the kernel finds one that is free.
func newFilter(p place, name string, program *ebpf.Program, handle uint32) *netlink.BpfFilter {
	return &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: p.index, Parent: p.way.parent(), Handle: handle, Protocol: unix.ETH_P_ALL, Priority: filterPriority,
		},
		Fd: program.FD(), Name: filterPrefix + name, DirectAction: true,
	}
}

func setFilter(set func(netlink.Filter) error, f *netlink.BpfFilter) error {
	if err := set(f); err != nil {
		return fmt.Errorf("put filter: %w", err)
	}
	return nil
}

// deleteFilter removes a filter of ours. That the filter, its qdisc or its link is gone already is told by several errors.
func deleteFilter(p place, handle uint32) error {
	err := netlink.FilterDel(&netlink.BpfFilter{FilterAttrs: netlink.FilterAttrs{
		LinkIndex: p.index, Parent: p.way.parent(), Handle: handle, Protocol: unix.ETH_P_ALL, Priority: filterPriority,
	}, Fd: -1})
	if err == nil || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	return fmt.Errorf("delete filter: %w", err)
}

func clsact(index int) *netlink.Clsact {
	return &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
}

// enterQdisc sees to it that there is a qdisc for the hook. A mark tells which are from us; it is there before the qdisc
// is, so that whoever is killed in between leaves none that nobody takes away.
func (h *hooks) enterQdisc(p place) error {
	mark := h.markOf(p.index)
	marked := os.Mkdir(mark, 0o700)
	if marked != nil && !errors.Is(marked, fs.ErrExist) {
		return fmt.Errorf("mark link: %w", marked)
	}
	added := netlink.QdiscAdd(clsact(p.index))
	if added == nil {
		return nil
	}
	if marked == nil {
		if err := removeEntry(mark); err != nil {
			return err
		}
	}
	if !errors.Is(added, unix.EEXIST) {
		return fmt.Errorf("make clsact qdisc: %w", added)
	}
	kinds, err := qdiscKinds()
	if err == nil && !p.way.isBelow(kinds[p.index]) {
		return fmt.Errorf("the link has a qdisc %s of somebody else, which has no hook for what goes out", kinds[p.index])
	}
	return err
}

// pave makes the qdisc that programs of a new link will need, before packets go there: a link that is up gets one at the cost
// of what it is just sending (qdisc_graft in net/sched/sch_api.c). It has no mark: it is a part of the link, and goes with it.
// Where there is one, or no link, and where no program needs one, nothing is done.
func (h *hooks) pave(link string) error {
	if h.by != byClsact {
		return nil
	}
	return h.home.inside(func() error {
		index, err := deviceIndex(link)
		if errors.Is(err, reconcile.ErrWaits) {
			return nil
		}
		if err == nil {
			err = netlink.QdiscAdd(clsact(index))
		}
		if err == nil || errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENODEV) {
			return nil
		}
		return fmt.Errorf("make clsact qdisc of %s: %w", link, err)
	})
}

// leaveQdisc removes a qdisc that is from us once nothing is below it. Where others have put filters below it, and we have
// none any more, it is theirs from then on.
func (h *hooks) leaveQdisc(index int) error {
	if _, err := os.Lstat(h.markOf(index)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	alone := true
	for _, way := range ways() {
		all, err := filters(place{index, way})
		if err != nil {
			return err
		}
		for _, f := range all {
			if f.isOurs() {
				return nil
			}
			alone = false
		}
	}
	if alone {
		err := netlink.QdiscDel(clsact(index))
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("delete clsact qdisc: %w", err)
		}
	}
	return removeEntry(h.markOf(index))
}
