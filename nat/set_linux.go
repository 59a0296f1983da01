package nat

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	setKind     = "hash:ip"
	setRevision = 1       // the oldest that the kernels know which are in use: nothing of the later ones is needed
	setRoom     = 1 << 16 // members
	setFull     = 4352    // IPSET_ERR_HASH_FULL: more members than there is room for
	namesOnly   = 1 << 1  // IPSET_FLAG_LIST_SETNAME, include/uapi/linux/netfilter/ipset/ip_set.h
	batch       = 128     // members in one message
)

// errNoSets is a kernel without ipset.
var errNoSets = errors.New(`this kernel has no sets of addresses: modprobe ip_set_hash_ip xt_set, or set accept = "any" under [tunnel]`)

// Sets is the table of the members of our sets of addresses.
type Sets struct {
	k       *Kernel
	changed chan struct{}

	mu   sync.Mutex
	size int            // of the latest listing: about as large will be the next
	held map[Member]int // members in each set as it was listed or left; nil when that may be wrong
	tick *time.Ticker   // of who looks whether it is still so; nil when nobody does
}

// Sets is the table of the members of our sets of addresses.
func (k *Kernel) Sets() *Sets { return &Sets{k: k, changed: make(chan struct{}, 1)} }

// List reads our sets and what is in them.
func (t *Sets) List(ctx context.Context) (map[Member]Fault, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	names, err := t.names(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the names of sets: %w", err)
	}
	have := make(map[Member]Fault, t.size)
	for _, name := range names {
		if err := t.read(ctx, name, have); err != nil {
			return nil, fmt.Errorf("read set %s: %w", name, err)
		}
	}
	t.size = len(have)
	t.held = census(have)
	t.watch()
	return have, nil
}

// names are those of our sets. A kernel without ipset has none.
func (t *Sets) names(ctx context.Context) (names []string, err error) {
	req := setRequest(nl.IPSET_CMD_LIST, unix.NLM_F_DUMP, "")
	req.AddData(nl.NewRtAttr(nl.IPSET_ATTR_FLAGS|int(nl.NLA_F_NET_BYTEORDER), nl.BEUint32Attr(namesOnly)))
	err = t.dump(ctx, req, func() { names = nil }, func(body []byte) {
		for kind, value := range attributes(body) {
			if name := unix.ByteSliceToString(value); kind == nl.IPSET_ATTR_SETNAME && strings.HasPrefix(name, setPrefix) {
				names = append(names, name)
			}
		}
	})
	if errors.Is(err, errNoSets) {
		return nil, nil
	}
	slices.Sort(names) // a set with many members comes in several messages
	return slices.Compact(names), err
}

func (t *Sets) read(ctx context.Context, name string, have map[Member]Fault) error {
	var whole Member
	var fault Fault
	var members []netip.Addr
	req := setRequest(nl.IPSET_CMD_LIST, unix.NLM_F_DUMP, name)
	err := t.dump(ctx, req, func() { members = members[:0] }, func(body []byte) {
		for kind, value := range attributes(body) {
			switch kind {
			case nl.IPSET_ATTR_TYPENAME:
				if unix.ByteSliceToString(value) != setKind {
					fault = "kind"
				}
			case nl.IPSET_ATTR_FAMILY:
				whole = Member{name, unspecified(value)}
			case nl.IPSET_ATTR_ADT:
				members = appendMembers(members, value)
			}
		}
	})
	switch {
	case errors.Is(err, unix.ENOENT): // gone since
		return nil
	case err != nil:
		return err
	}
	have[whole] = fault
	if fault != "" {
		return nil // what is in it goes with it
	}
	for _, ip := range members {
		have[Member{name, ip}] = ""
	}
	return nil
}

func unspecified(family []byte) netip.Addr {
	if len(family) > 0 && family[0] == unix.AF_INET6 {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

// appendMembers adds the addresses in a part of a listing. A listing has thousands, and each pass reads it.
func appendMembers(all []netip.Addr, list []byte) []netip.Addr {
	for len(list) > 0 {
		var member []byte
		_, member, list = attribute(list)
		kind, inner, _ := attribute(member) // the address comes first
		if kind != nl.IPSET_ATTR_IP {
			continue
		}
		_, bytes, _ := attribute(inner)
		if ip, ok := netip.AddrFromSlice(bytes); ok {
			all = append(all, ip)
		}
	}
	return all
}

// Put makes a set, or puts an address into one.
func (t *Sets) Put(ctx context.Context, m Member, _ Fault) error {
	return t.Apply(ctx, map[Member]Fault{m: ""}, nil)[m]
}

// Delete removes a set, or an address from one.
func (t *Sets) Delete(ctx context.Context, m Member) error {
	return t.Apply(ctx, nil, []Member{m})[m]
}

// Apply makes sets before it fills them, and empties them before it removes them.
func (t *Sets) Apply(ctx context.Context, puts map[Member]Fault, deletes []Member) map[Member]error {
	t.mu.Lock()
	defer t.mu.Unlock()
	failed := make(map[Member]error)
	whole, members := apart(slices.Collect(maps.Keys(puts)), failed)
	for _, m := range whole {
		if err := t.create(ctx, m); err != nil {
			failed[m] = err
		}
	}
	t.change(ctx, nl.IPSET_CMD_ADD, members, failed)
	whole, members = apart(deletes, failed)
	t.change(ctx, nl.IPSET_CMD_DEL, members, failed)
	for _, m := range whole {
		if err := t.destroy(ctx, m); err != nil && !absent(err) {
			failed[m] = err
		}
	}
	t.keep(puts, deletes, failed)
	t.watch()
	return failed
}

// apart tells the sets themselves from their members, these by set. What can not be ours fails.
func apart(all []Member, failed map[Member]error) (whole []Member, members map[string][]Member) {
	members = make(map[string][]Member)
	for _, m := range all {
		switch err := m.check(); {
		case err != nil:
			failed[m] = err
		case m.whole():
			whole = append(whole, m)
		default:
			members[m.Set] = append(members[m.Set], m)
		}
	}
	return whole, members
}

// create makes a set. One that has the name and is of another kind goes first: the kernel itself does not look at the
// family when it is asked for a set that is there. Rules keep what they refer to, and then the kernel says so.
func (t *Sets) create(ctx context.Context, m Member) error {
	err := t.write(ctx, creation(m))
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	have := make(map[Member]Fault)
	if err := t.read(ctx, m.Set, have); err != nil {
		return err
	}
	if fault, there := have[m]; there && fault == "" {
		return nil
	}
	if err := t.write(ctx, destruction(m)); err != nil {
		return fmt.Errorf("remove the set of another kind: %w", err)
	}
	return t.write(ctx, creation(m))
}

// destroy removes a set, but not one of the other family that has taken its name.
func (t *Sets) destroy(ctx context.Context, m Member) error {
	have := make(map[Member]Fault)
	if err := t.read(ctx, m.Set, have); err != nil {
		return err
	}
	if _, there := have[m]; !there {
		return nil
	}
	return t.write(ctx, destruction(m))
}

// change adds members to sets or takes them out, many with one message. When the kernel refuses one it has not looked at
// those behind it, so they are told one by one, and each learns its own error.
func (t *Sets) change(ctx context.Context, command int, members map[string][]Member, failed map[Member]error) {
	for _, all := range members {
		for part := range slices.Chunk(all, batch) {
			if t.write(ctx, memberRequest(command, part...)) == nil {
				continue
			}
			for _, m := range part {
				err := t.write(ctx, memberRequest(command, m))
				if err != nil && !(command == nl.IPSET_CMD_DEL && absent(err)) {
					failed[m] = err
				}
			}
		}
	}
}

// absent is the error for what is gone already.
func absent(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, errNoSets) }

// setRequest is a message to ipset about the set with a name.
func setRequest(command, flags int, name string) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_IPSET<<8|command, flags)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_INET, Version: nl.NFNETLINK_V0})
	req.AddData(nl.NewRtAttr(nl.IPSET_ATTR_PROTOCOL, nl.Uint8Attr(nl.IPSET_PROTOCOL)))
	if name != "" {
		req.AddData(nl.NewRtAttr(nl.IPSET_ATTR_SETNAME, nl.ZeroTerminated(name)))
	}
	return req
}

// creation is the request that makes a set.
func creation(m Member) *nl.NetlinkRequest {
	family := uint8(unix.AF_INET6)
	if m.IP.Is4() {
		family = unix.AF_INET
	}
	req := setRequest(nl.IPSET_CMD_CREATE, unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_EXCL, m.Set)
	req.AddData(nl.NewRtAttr(nl.IPSET_ATTR_TYPENAME, nl.ZeroTerminated(setKind)))
	req.AddData(nl.NewRtAttr(nl.IPSET_ATTR_REVISION, nl.Uint8Attr(setRevision)))
	req.AddData(nl.NewRtAttr(nl.IPSET_ATTR_FAMILY, nl.Uint8Attr(family)))
	data := nl.NewRtAttr(nl.IPSET_ATTR_DATA|int(nl.NLA_F_NESTED), nil)
	data.AddRtAttr(nl.IPSET_ATTR_MAXELEM|int(nl.NLA_F_NET_BYTEORDER), nl.BEUint32Attr(setRoom))
	req.AddData(data)
	return req
}

func destruction(m Member) *nl.NetlinkRequest {
	return setRequest(nl.IPSET_CMD_DESTROY, unix.NLM_F_ACK, m.Set)
}

// memberRequest is a message about addresses in one set. Adding what is there and removing what is not are no errors.
func memberRequest(command int, all ...Member) *nl.NetlinkRequest {
	req := setRequest(command, unix.NLM_F_ACK, all[0].Set)
	req.AddData(nl.NewRtAttr(nl.IPSET_ATTR_LINENO|int(nl.NLA_F_NET_BYTEORDER), nl.BEUint32Attr(0)))
	list := nl.NewRtAttr(nl.IPSET_ATTR_ADT|int(nl.NLA_F_NESTED), nil)
	for _, m := range all {
		kind := nl.IPSET_ATTR_IPADDR_IPV6
		if m.IP.Is4() {
			kind = nl.IPSET_ATTR_IPADDR_IPV4
		}
		ip := list.AddRtAttr(nl.IPSET_ATTR_DATA|int(nl.NLA_F_NESTED), nil).AddRtAttr(nl.IPSET_ATTR_IP|int(nl.NLA_F_NESTED), nil)
		ip.AddRtAttr(kind|int(nl.NLA_F_NET_BYTEORDER), m.IP.AsSlice())
	}
	req.AddData(list)
	return req
}

func (t *Sets) write(ctx context.Context, req *nl.NetlinkRequest) error {
	return t.ask(ctx, req, func([]byte) {})
}

// dump gives every message of a listing to row. One that changed while it was read is read again from begin, a few
// times: after that what was read is good enough, since puts and deletes are idempotent.
func (t *Sets) dump(ctx context.Context, req *nl.NetlinkRequest, begin func(), row func(body []byte)) error {
	for range dumpTries {
		begin()
		if err := t.ask(ctx, req, row); !errors.Is(err, errTorn) {
			return err
		}
	}
	return nil
}

func (t *Sets) ask(ctx context.Context, req *nl.NetlinkRequest, answer func(body []byte)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	t.k.mu.Lock()
	defer t.k.mu.Unlock()
	if t.k.wire == nil {
		err := t.k.inside(func() (err error) { t.k.wire, err = dial(); return err })
		if errors.Is(err, unix.EPROTONOSUPPORT) {
			return fmt.Errorf("%w: %w", errNoSets, err)
		}
		if err != nil {
			return err
		}
	}
	return explainSet(t.k.wire.ask(req, answer))
}

// explainSet has words for the errors that only ipset knows. Without ipset nfnetlink calls its messages invalid.
func explainSet(err error) error {
	var code unix.Errno
	switch {
	case !errors.As(err, &code):
		return err
	case code == unix.EINVAL || code == nl.IPSET_ERR_FIND_TYPE:
		return fmt.Errorf("%w: %w", errNoSets, err)
	case code == nl.IPSET_ERR_BUSY || code == nl.IPSET_ERR_REFERENCED:
		return fmt.Errorf("a rule of the firewall still asks for the set: %w", unix.EBUSY)
	case code == setFull:
		return fmt.Errorf("the set holds %d members and no more: %w", setRoom, unix.ENOSPC)
	case code >= nl.IPSET_ERR_PRIVATE:
		return fmt.Errorf("ipset: %w", nl.IPSetError(code))
	}
	return err
}
