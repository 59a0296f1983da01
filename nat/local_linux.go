package nat

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// localRoute is a row of the routing table local, which says for the kernel what its own addresses are: also whole
// prefixes such as 127.0.0.0/8, and the broadcast addresses within them, which are none.
type localRoute struct {
	to  netip.Prefix
	own bool
}

// localRoutes reads that table in the calling thread's namespace.
func localRoutes(family uint8) (all []localRoute, err error) {
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	defer socket.Close()
	// It makes the kernel leave out other tables, which may hold a million routes. Kernels before 4.20 tell them all.
	_ = unix.SetsockoptInt(socket.GetFd(), unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
	req := nl.NewNetlinkRequest(unix.RTM_GETROUTE, unix.NLM_F_DUMP)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: socket}}
	req.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{Family: family, Table: unix.RT_TABLE_LOCAL}})
	for range dumpTries {
		all = all[:0]
		err = req.ExecuteIter(unix.NETLINK_ROUTE, unix.RTM_NEWROUTE, func(m []byte) bool {
			if r, ok := parseLocal(family, m); ok {
				all = append(all, r)
			}
			return true
		})
		if !errors.Is(err, nl.ErrDumpInterrupted) { // what was read is good enough after some tries
			break
		}
	}
	if err != nil && !errors.Is(err, nl.ErrDumpInterrupted) && !errors.Is(err, unix.ENOENT) { // no such table: no IPv6
		return nil, fmt.Errorf("read the host's addresses: %w", err)
	}
	return all, nil
}

func parseLocal(family uint8, m []byte) (localRoute, bool) {
	if len(m) < unix.SizeofRtMsg {
		return localRoute{}, false
	}
	msg := nl.DeserializeRtMsg(m)
	if msg.Family != family || msg.Table != unix.RT_TABLE_LOCAL {
		return localRoute{}, false
	}
	ip := netip.IPv6Unspecified()
	if family == unix.AF_INET {
		ip = netip.IPv4Unspecified()
	}
	for kind, value := range attributes(m[unix.SizeofRtMsg:]) {
		if a, ok := netip.AddrFromSlice(value); ok && kind == unix.RTA_DST {
			ip = a
		}
	}
	return localRoute{netip.PrefixFrom(ip, int(msg.Dst_len)), msg.Type == unix.RTN_LOCAL}, true
}

// isLocal tells whether an address is the host's own: what the longest prefix says that it is in.
func isLocal(all []localRoute, ip netip.Addr) bool {
	own, longest := false, -1
	for _, r := range all {
		if r.to.Contains(ip) && r.to.Bits() > longest {
			own, longest = r.own, r.to.Bits()
		}
	}
	return own
}
