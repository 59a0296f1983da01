package tunnel

import (
	"context"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Shadowed asks the kernel which route it uses for each prefix, by the first address of it, and returns those for which
// it is a foreign one that is no wider than ours, with that route as text. Foreign routes are never touched, so this is
// all that is done about them.
func (k *Kernel) Shadowed(ctx context.Context, prefixes []netip.Prefix) (map[netip.Prefix]string, error) {
	if len(prefixes) == 0 {
		return nil, nil
	}
	all := k.links()
	addrs := make([]netip.Addr, len(prefixes))
	for i, p := range prefixes {
		addrs[i] = p.Masked().Addr()
	}
	answers, err := k.lookup(ctx, addrs, unix.RTM_F_FIB_MATCH)
	if err != nil {
		return nil, err
	}
	shadowed := make(map[netip.Prefix]string)
	for i, p := range prefixes {
		a, found := answers[addrs[i]]
		if !found || a.protocol == Protocol || a.prefix.Bits() < p.Bits() {
			continue
		}
		dev := ""
		if len(a.legs) > 0 {
			dev = " dev " + all.name(a.legs[0].index)
		}
		shadowed[p] = fmt.Sprintf("%v%s protocol %d metric %d", a.prefix, dev, a.protocol, a.metric)
	}
	return shadowed, nil
}
