package tunnel

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// askAgain is how long an answer of no stands: a module may be installed while we run.
const askAgain = time.Minute

// Supports finds out which of the tunnels this kernel has. It loads the module of each that was asked for, as making the
// device would, and makes nothing.
func (k *Kernel) Supports(ctx context.Context, wanted Encaps) (found Encaps, err error) {
	for _, e := range wanted.List() {
		has, err := k.supports(ctx, e)
		if err != nil {
			return 0, fmt.Errorf("ask the kernel for %s: %w", e, err)
		}
		if has {
			found |= SetOf(e)
		}
	}
	return found, nil
}

func (k *Kernel) supports(ctx context.Context, e Encap) (bool, error) {
	k.asked.Lock()
	defer k.asked.Unlock()
	if known, ok := k.answers[e]; ok && (known.has || time.Since(known.at) < askAgain) {
		return known.has, nil
	}
	has, err := k.probe(ctx, e)
	if err == nil {
		k.answers[e] = support{has: has, at: time.Now()}
	}
	return has, err
}

// support is what the kernel said of a tunnel.
type support struct {
	has bool
	at  time.Time
}

// probe asks for a device of an MTU that can not be. The kernel looks for the kind of device before it looks at the MTU
// (net/core/rtnetlink.c, rtnl_newlink and rtnl_create_link), so the error tells whether it has the kind.
func (k *Kernel) probe(ctx context.Context, e Encap) (bool, error) {
	req := linkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, "flprobe", 0)
	req.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(math.MaxUint32)))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(unix.IFLA_INFO_KIND, nl.NonZeroTerminated(string(e)))
	Device{Kind: e, VNI: 1, Port: 1, Local: netip.AddrFrom4([4]byte{127, 0, 0, 1})}.attributes(info.AddRtAttr(unix.IFLA_INFO_DATA, nil))
	req.AddData(info)
	err := k.conn.write(ctx, req)[0]
	switch {
	case errors.Is(err, unix.EINVAL):
		return true, nil
	case errors.Is(err, unix.EOPNOTSUPP):
		return false, nil
	default:
		return false, err
	}
}
