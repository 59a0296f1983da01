package tunnel

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Rules is the table of routing rules with our protocol number, by the prefix that packets come from.
type Rules struct{ k *Kernel }

// Rules is the table of routing rules.
func (k *Kernel) Rules() *Rules { return &Rules{k} }

// policy is a rule of ours as the kernel has it. Several can have the same prefix.
type policy struct {
	from netip.Prefix
	rule Rule
	raw  []byte // what names exactly this one when it is deleted
}

// List reads our rules. Where there are several for a prefix, all but one are a fault that the next Put clears away.
func (t *Rules) List(ctx context.Context) (map[netip.Prefix]Rule, error) {
	own, err := t.read(ctx)
	if err != nil {
		return nil, err
	}
	have := make(map[netip.Prefix]Rule, len(own))
	for _, p := range own {
		if _, twice := have[p.from]; twice {
			p.rule.Fault = "several"
		}
		have[p.from] = p.rule
	}
	return have, nil
}

// Put makes r the only rule of ours for the prefix. The new one is there before an old one goes.
func (t *Rules) Put(ctx context.Context, from netip.Prefix, r Rule) error {
	own, err := t.read(ctx)
	if err != nil {
		return err
	}
	there := false
	var old []*nl.NetlinkRequest
	for _, p := range own {
		switch {
		case p.from != from:
		case p.rule == r && !there:
			there = true
		default:
			old = append(old, p.deletion())
		}
	}
	if !there {
		if err := t.k.conn.write(ctx, newRule(from, r))[0]; err != nil {
			return fmt.Errorf("%v: %w", r, err)
		}
	}
	return t.remove(ctx, old)
}

// Delete removes our rules for the prefix.
func (t *Rules) Delete(ctx context.Context, from netip.Prefix) error {
	own, err := t.read(ctx)
	if err != nil {
		return err
	}
	var old []*nl.NetlinkRequest
	for _, p := range own {
		if p.from == from {
			old = append(old, p.deletion())
		}
	}
	return t.remove(ctx, old)
}

func (t *Rules) remove(ctx context.Context, reqs []*nl.NetlinkRequest) error {
	for _, err := range t.k.conn.write(ctx, reqs...) {
		if err != nil && !absent(err) {
			return err
		}
	}
	return nil
}

func (t *Rules) read(ctx context.Context) ([]policy, error) {
	var own []policy
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		req := nl.NewNetlinkRequest(unix.RTM_GETRULE, 0)
		req.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{Family: family}})
		before := len(own)
		err := t.k.conn.dump(ctx, req, func() { own = own[:before] }, func(body []byte) {
			if p, ours := parseRule(body); ours {
				own = append(own, p)
			}
		})
		if err != nil {
			return nil, fmt.Errorf("read rules: %w", err)
		}
	}
	return own, nil
}

func newRule(from netip.Prefix, r Rule) *nl.NetlinkRequest {
	// Not exclusive: the kernel takes no account of the protocol there, and a foreign rule of the same words may go at
	// any time.
	req := nl.NewNetlinkRequest(unix.RTM_NEWRULE, unix.NLM_F_CREATE)
	req.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{
		Family:  familyOf(from.Addr()),
		Src_len: uint8(from.Bits()),
		Type:    unix.FR_ACT_TO_TBL,
	}})
	req.AddData(nl.NewRtAttr(unix.FRA_SRC, from.Addr().AsSlice()))
	req.AddData(nl.NewRtAttr(unix.FRA_TABLE, nl.Uint32Attr(uint32(r.Table))))
	req.AddData(nl.NewRtAttr(unix.FRA_PRIORITY, nl.Uint32Attr(uint32(r.Priority))))
	req.AddData(nl.NewRtAttr(unix.FRA_PROTOCOL, nl.Uint8Attr(Protocol)))
	return req
}

// deletion is the request that removes exactly this rule.
func (p policy) deletion() *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(unix.RTM_DELRULE, 0)
	req.AddRawData(p.raw)
	return req
}

func parseRule(body []byte) (p policy, ours bool) {
	bits, src := int(body[2]), netip.IPv6Unspecified()
	if body[0] == unix.AF_INET {
		src = netip.IPv4Unspecified()
	}
	p.rule.Table = int(body[4])
	if body[7] != unix.FR_ACT_TO_TBL {
		p.rule.Fault = fmt.Sprintf("action %d", body[7])
	}
	if body[1] != 0 || body[3] != 0 || binary.NativeEndian.Uint32(body[8:]) != 0 {
		p.rule.Fault = "narrowed"
	}
	for kind, value := range attributes(body[unix.SizeofRtMsg:]) {
		switch kind {
		case unix.FRA_SRC:
			src = address(value)
		case unix.FRA_TABLE:
			p.rule.Table = number(value)
		case unix.FRA_PRIORITY:
			p.rule.Priority = number(value)
		case unix.FRA_PROTOCOL:
			ours = number(value) == Protocol
		case unix.FRA_SUPPRESS_PREFIXLEN:
			if int32(number(value)) != -1 {
				p.rule.Fault = "suppressing"
			}
		case unix.FRA_FWMARK, unix.FRA_FWMASK, unix.FRA_IIFNAME, unix.FRA_OIFNAME, unix.FRA_IP_PROTO, unix.FRA_UID_RANGE:
			p.rule.Fault = "narrowed"
		}
	}
	p.from = netip.PrefixFrom(src, bits)
	p.raw = append(p.raw, body...)
	return p, ours
}
