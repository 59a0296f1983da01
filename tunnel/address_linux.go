package tunnel

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// faultBare is a tunnel device without an IPv4 address. On such a one a loose reverse path filter is as strict as a strict
// one: it drops every packet whose answer would go another way (__fib_validate_source, no_addr).
const faultBare = "no address"

// tunnelAddress is the address of every tunnel device, that of the containers' gateway. With the scope of the host it is no
// source of any packet that did not ask for it.
func tunnelAddress() []byte { return Gateway().AsSlice() }

// addressing is the request that gives the link an address.
func (k *Kernel) addressing(name string) (*nl.NetlinkRequest, error) {
	index, err := k.links().index(name)
	if err != nil {
		return nil, err
	}
	req := nl.NewNetlinkRequest(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	m := nl.NewIfAddrmsg(unix.AF_INET)
	m.Index, m.Prefixlen, m.Scope = uint32(index), 32, unix.RT_SCOPE_HOST
	req.AddData(m)
	req.AddData(nl.NewRtAttr(unix.IFA_LOCAL, tunnelAddress()))
	return req, nil
}

// bare tells whether a link has no IPv4 address at all. Any will do.
func (k *Kernel) bare(ctx context.Context, index int) (bool, error) {
	bare := true
	req := nl.NewNetlinkRequest(unix.RTM_GETADDR, 0)
	m := nl.NewIfAddrmsg(unix.AF_INET)
	m.Index = uint32(index)
	req.AddData(m)
	err := k.conn.dump(ctx, req, func() { bare = true }, func(body []byte) {
		if int(binary.NativeEndian.Uint32(body[4:])) == index {
			bare = false
		}
	})
	if err != nil {
		return false, fmt.Errorf("read addresses: %w", err)
	}
	return bare, nil
}
