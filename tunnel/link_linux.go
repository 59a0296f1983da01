package tunnel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/reconcile"
)

// skipStats keeps the counters of links out of answers (RTEXT_FILTER_SKIP_STATS): they are most of their size.
const skipStats = 1 << 3

// link is what we need to know of a network interface.
type link struct {
	index, mtu, master int
	hardware           uint16 // ARPHRD_..., what its frames look like
	name, kind         string
	mac                MAC
	up                 bool
	tunnel             setup
}

// setup is that of a tunnel device.
type setup struct {
	vni, port int // of VXLAN
	local     netip.Addr
	remote    netip.Addr // the only other end; ours have none
	odd       string     // a setting that ours never have
}

// links finds names and indexes of interfaces, one by one as they are asked for: on a host with hundreds of endpoints
// a reading of all links costs more than everything else that a pass does.
type links struct {
	fd    int
	names map[int]string // found so far; a reading lives for one call, so that none is stale for long
}

func (k *Kernel) links() links { return links{fd: k.conn.fd, names: make(map[int]string)} }

// name is the link's with that index, "" when there is none. The zero links know no names, for those who need none.
func (ls links) name(index int) string {
	name, ok := ls.names[index]
	if ok || index == 0 || ls.names == nil {
		return name
	}
	ls.names[index] = linkName(ls.fd, index)
	return ls.names[index]
}

// linkName asks by SIOCGIFNAME, netdevice(7).
func linkName(fd, index int) string {
	req, err := unix.NewIfreq("any")
	if err != nil {
		return ""
	}
	req.SetUint32(uint32(index))
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFNAME, req); err != nil {
		return ""
	}
	return req.Name()
}

// index finds a link by name. One that is not there yet is waited for.
func (ls links) index(name string) (int, error) {
	req, err := unix.NewIfreq(name)
	if err != nil {
		return 0, noDevice(name)
	}
	if err := unix.IoctlIfreq(ls.fd, unix.SIOCGIFINDEX, req); err != nil {
		return 0, noDevice(name)
	}
	return int(req.Uint32()), nil
}

// every reads all links.
func (k *Kernel) every(ctx context.Context) ([]link, error) {
	var all []link
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(skipStats)))
	err := k.conn.dump(ctx, req, func() {
		all = nil
	}, func(body []byte) { all = append(all, parseLink(body)) })
	if err != nil {
		return nil, fmt.Errorf("read links: %w", err)
	}
	return all, nil
}

func noDevice(name string) error {
	return fmt.Errorf("device %s %w: %w", name, reconcile.ErrWaits, unix.ENODEV)
}

// waits marks the errors of a put that stands on a link which is gone or down.
func waits(err error) error {
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENETDOWN) {
		return fmt.Errorf("%w: %w", reconcile.ErrWaits, err)
	}
	return err
}

// link reads one interface; the error is ENODEV when there is none of the name. That is asked first, since the answer
// takes no lock, while a reading waits for whoever changes any link of the whole machine.
func (k *Kernel) link(ctx context.Context, name string) (l link, err error) {
	if _, err := k.links().index(name); err != nil {
		return l, err
	}
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(skipStats)))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	err = k.conn.one(ctx, req, func(body []byte) { l = parseLink(body) })
	return l, err
}

func parseLink(body []byte) link {
	l := link{
		hardware: binary.NativeEndian.Uint16(body[2:]),
		index:    int(binary.NativeEndian.Uint32(body[4:])),
		up:       binary.NativeEndian.Uint32(body[8:])&unix.IFF_UP != 0,
	}
	for kind, value := range attributes(body[unix.SizeofIfInfomsg:]) {
		switch kind {
		case unix.IFLA_IFNAME:
			l.name = text(value)
		case unix.IFLA_MTU:
			l.mtu = number(value)
		case unix.IFLA_MASTER:
			l.master = number(value)
		case unix.IFLA_ADDRESS:
			copy(l.mac[:], value)
		case unix.IFLA_LINKINFO:
			l.parseInfo(value)
		}
	}
	return l
}

func (l *link) parseInfo(b []byte) {
	var data []byte
	for kind, value := range attributes(b) {
		switch kind {
		case unix.IFLA_INFO_KIND:
			l.kind = text(value)
		case unix.IFLA_INFO_DATA:
			data = value
		}
	}
	switch l.kind {
	case "vxlan":
		l.tunnel = parseVXLAN(data)
	case "ipip":
		l.tunnel = parseIPTunnel(data, ipipAttributes())
	case "gre":
		l.tunnel = parseIPTunnel(data, greAttributes())
	}
}

// endpointLink tells whether a link is the host's side of an endpoint: fl and ten hexadecimal digits.
func endpointLink(name string) bool {
	digits, ok := strings.CutPrefix(name, "fl")
	return ok && len(digits) == 10 && strings.Trim(digits, "0123456789abcdef") == ""
}

func ourLink(name string) bool { return IsDevice(name) || endpointLink(name) }

// address reads an attribute that is an IP address; the zero address when it is none.
func address(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a
}
