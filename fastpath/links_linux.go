package fastpath

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// link is a network interface.
type link struct {
	name  string
	index uint32
	home  uint32 // id of the other end's namespace + 1; 0: that is here, or there is none
}

// links are all interfaces of a network namespace at one time.
type links struct {
	named    map[string]link
	numbered map[uint32]link
}

// wire asks for links in the network namespace that it was opened in.
type wire struct{ handle *nl.SocketHandle }

func openWire() (wire, error) {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE)
	if err != nil {
		return wire{}, fmt.Errorf("open netlink socket: %w", err)
	}
	return wire{&nl.SocketHandle{Socket: s}}, nil
}

func (w wire) close() { w.handle.Close() }

// links reads all of them.
func (w wire) links() (all links, err error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: w.handle}
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(skipStats)))
	err = dump(req, unix.RTM_NEWLINK, func() {
		all = links{named: make(map[string]link), numbered: make(map[uint32]link)}
	}, func(body []byte) {
		l := parseLink(body)
		all.named[l.name], all.numbered[l.index] = l, l
	})
	if err != nil {
		return all, fmt.Errorf("read links: %w", err)
	}
	return all, nil
}

func parseLink(body []byte) link {
	l := link{index: binary.NativeEndian.Uint32(body[4:])}
	for b := body[unix.SizeofIfInfomsg:]; len(b) >= unix.SizeofRtAttr; {
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofRtAttr || size > len(b) {
			break
		}
		value := b[unix.SizeofRtAttr:size]
		switch binary.NativeEndian.Uint16(b[2:]) {
		case unix.IFLA_IFNAME:
			l.name = unix.ByteSliceToString(value)
		case unix.IFLA_LINK_NETNSID:
			l.home = binary.NativeEndian.Uint32(value) + 1
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return l
}

// find is the link of a name. One that is not there is waited for.
func (ls links) find(name string) (link, error) {
	if l, found := ls.named[name]; found {
		return l, nil
	}
	return link{}, noDevice(name)
}

// name is that of the link of a number. Where there is none the name is one that no link can have, and it is false.
func (ls links) name(index uint32) (string, bool) {
	if l, found := ls.numbered[index]; found {
		return l.name, true
	}
	return fmt.Sprintf("%s%d", nameless, index), false
}

// nameless begins what stands for the name of a link that is gone.
const nameless = "gone:"

// number is that of a link by its name, or by what stands for it; 0: there is none.
func (ls links) number(name string) (index uint32) {
	if digits, gone := strings.CutPrefix(name, nameless); gone {
		_, _ = fmt.Sscan(digits, &index) // stays 0
		return index
	}
	return ls.named[name].index
}
