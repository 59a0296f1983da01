package tunnel

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Devices is the table of tunnel devices: the links named flvxlan, flvxlan6, flipip and flgre.
type Devices struct{ k *Kernel }

// Devices is the table of tunnel devices.
func (k *Kernel) Devices() *Devices { return &Devices{k} }

// List reads the tunnel devices that exist.
func (t *Devices) List(ctx context.Context) (map[string]Device, error) {
	have := make(map[string]Device)
	for _, name := range devices() {
		l, err := t.k.link(ctx, name)
		d := l.device()
		if err == nil && d.Fault == "" {
			d.Fault, err = t.addressFault(ctx, l)
		}
		if err == nil && d.Kind == VXLAN {
			d.Offload, err = t.k.readOffload(name)
		}
		switch {
		case errors.Is(err, unix.ENODEV):
		case err != nil:
			return nil, fmt.Errorf("read link %s: %w", name, err)
		default:
			have[name] = d
		}
	}
	return have, nil
}

func (t *Devices) addressFault(ctx context.Context, l link) (string, error) {
	if bare, err := t.k.bare(ctx, l.index); err != nil || !bare {
		return "", err
	}
	return faultBare, nil
}

// device is the link as a row. A fault makes it differ from every row that is wanted.
func (l link) device() Device {
	d := Device{Kind: Encap(l.kind), Local: l.tunnel.local, MTU: l.mtu, Fault: l.tunnel.odd}
	if d.Kind == VXLAN {
		d.VNI, d.Port, d.MAC = l.tunnel.vni, l.tunnel.port, l.mac
	}
	switch {
	case l.master != 0:
		d.Fault = "enslaved"
	case d.Fault == "" && !l.up:
		d.Fault = faultDown
	}
	return d
}

const (
	faultDown   = "down"
	genModeNone = 1 // IN6_ADDR_GEN_MODE_NONE
)

// Put makes the device, or mends it.
//
// MTU, MAC and being up are mended in place. What can not be changed while packets flow is not worth keeping: such a
// device is made anew, and its entries come back with the tables above it.
func (t *Devices) Put(ctx context.Context, name string, d Device) error {
	l, err := t.k.link(ctx, name)
	if err == nil {
		have := l.device()
		if mendable(have, d) {
			return t.mend(ctx, name, d)
		}
		err = t.Delete(ctx, name)
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("%v: %w", d, err)
	}
	return t.create(ctx, name, d)
}

// Delete removes the device and with it everything that stands on it.
func (t *Devices) Delete(ctx context.Context, name string) error {
	err := t.k.conn.write(ctx, linkRequest(unix.RTM_DELLINK, 0, name, 0))[0]
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// mendable tells whether only what can be changed in place is different.
func mendable(have, want Device) bool {
	if have.Fault == faultDown || have.Fault == faultBare {
		have.Fault = ""
	}
	have.MTU, have.MAC, have.Offload = want.MTU, want.MAC, want.Offload
	return have == want
}

func (t *Devices) mend(ctx context.Context, name string, d Device) error {
	return errors.Join(t.raise(ctx, name, d, d.mending(name)), t.offload(name, d))
}

func (t *Devices) create(ctx context.Context, name string, d Device) error {
	if err := t.send(ctx, d, d.creation(name), silence(name)); err != nil {
		return err
	}
	return errors.Join(t.offload(name, d), t.raise(ctx, name, d))
}

// raise does the steps, and then gives the device its address and brings it up.
func (t *Devices) raise(ctx context.Context, name string, d Device, steps ...*nl.NetlinkRequest) error {
	addressing, err := t.k.addressing(name)
	if err != nil {
		return err
	}
	return t.send(ctx, d, append(steps, addressing, raising(name))...)
}

// offload gives a VXLAN device the switch that it shall have.
func (t *Devices) offload(name string, d Device) error {
	if d.Kind != VXLAN {
		return nil
	}
	return t.k.setOffload(name, d.Offload)
}

// send does the steps one after the other. The first that fails is what is wrong, except that a device for which there
// is no IPv6, because the host has none or the MTU is too small for it, needs no silencing.
func (t *Devices) send(ctx context.Context, d Device, steps ...*nl.NetlinkRequest) error {
	for _, err := range t.k.conn.write(ctx, steps...) {
		if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
			return fmt.Errorf("%v: %w", d, t.explain(ctx, d, err))
		}
	}
	return nil
}

// creation is the request that makes the device, still down.
func (d Device) creation(name string) *nl.NetlinkRequest {
	req := linkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, name, 0)
	req.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(d.MTU))))
	// An address that is given at creation is marked as set by the administrator (NET_ADDR_SET): systemd's
	// MACAddressPolicy leaves it alone.
	d.addMAC(req)
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(unix.IFLA_INFO_KIND, nl.NonZeroTerminated(string(d.Kind)))
	d.attributes(info.AddRtAttr(unix.IFLA_INFO_DATA, nil))
	req.AddData(info)
	return req
}

// mending is the request that gives an existing device its MTU and MAC.
func (d Device) mending(name string) *nl.NetlinkRequest {
	req := linkRequest(unix.RTM_NEWLINK, 0, name, 0)
	req.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(d.MTU))))
	d.addMAC(req)
	return req
}

func (d Device) addMAC(req *nl.NetlinkRequest) {
	if d.Kind == VXLAN {
		req.AddData(nl.NewRtAttr(unix.IFLA_ADDRESS, d.MAC[:]))
	}
}

// silence is the request that keeps the kernel from giving the device a link-local address. Without one it says nothing
// by itself: no duplicate detection, no router solicitation. The kernel takes it only for a device that exists, and it
// is of use only before it is up.
func silence(name string) *nl.NetlinkRequest {
	req := linkRequest(unix.RTM_SETLINK, 0, name, 0)
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	spec.AddRtAttr(unix.AF_INET6, nil).AddRtAttr(unix.IFLA_INET6_ADDR_GEN_MODE, nl.Uint8Attr(genModeNone))
	req.AddData(spec)
	return req
}

// raising is the request that brings the device up.
func raising(name string) *nl.NetlinkRequest {
	return linkRequest(unix.RTM_SETLINK, 0, name, unix.IFF_UP)
}

func linkRequest(kind, flags int, name string, up uint32) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(kind, flags)
	m := nl.NewIfInfomsg(unix.AF_UNSPEC)
	m.Flags, m.Change = up, up
	req.AddData(m)
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	return req
}

// explain names the device that is in the way when the place of ours is taken.
func (t *Devices) explain(ctx context.Context, d Device, err error) error {
	if !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.EADDRINUSE) {
		return err
	}
	all, readErr := t.k.every(ctx)
	if readErr != nil {
		return errors.Join(err, readErr)
	}
	owner := "another namespace's device or another program"
	for _, l := range all {
		if !IsDevice(l.name) && l.kind == string(d.Kind) && d.clashes(l.tunnel, err) {
			owner = "device " + l.name
		}
	}
	place := fmt.Sprintf("the %s tunnel from %v to anywhere", d.Kind, d.Local)
	if d.Kind == VXLAN {
		place = fmt.Sprintf("VNI %d on UDP port %d", d.VNI, d.Port)
	}
	return fmt.Errorf("%s is taken by %s: %w", place, owner, err)
}

// clashes tells whether a foreign device of the kind is what the kernel complains of.
func (d Device) clashes(other setup, err error) bool {
	if d.Kind == VXLAN {
		return other.port == d.Port && (other.vni == d.VNI || errors.Is(err, unix.EADDRINUSE))
	}
	return other.local == d.Local && !other.remote.IsValid()
}
