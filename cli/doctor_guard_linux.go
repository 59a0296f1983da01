package cli

import (
	"context"
	"errors"
	"net/netip"

	"github.com/fairlead-net/fairlead/nat"
	"github.com/fairlead-net/fairlead/tunnel"
)

// probeGuard puts into the packet filter of this thread's namespace what keeps strangers out of a tunnel, and says why
// that does not work, "" when it does.
func probeGuard() string {
	ctx, cancel := context.WithTimeout(context.Background(), toolTimeout)
	defer cancel()
	k, err := nat.Open()
	if err != nil {
		return err.Error()
	}
	defer k.Close()
	devices := map[string]tunnel.Device{tunnel.DeviceVXLAN: {Kind: tunnel.VXLAN, VNI: 1, Port: 4789, Local: netip.IPv4Unspecified()}}
	for s := range tunnel.Sources(devices, nil, nil) {
		err = errors.Join(err, k.Sets().Put(ctx, nat.Member(s), ""))
	}
	if err != nil {
		return err.Error()
	}
	chain := k.Input(0)
	for key, g := range tunnel.Guards(devices) {
		err = errors.Join(err, chain.Put(ctx, nat.EntryKey{Name: string(key.Encap), Family: key.Family}, nat.Drop(g.Spec(key))))
	}
	if err != nil {
		return err.Error()
	}
	return ""
}
