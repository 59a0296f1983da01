package nat

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Flow is one side of a connection whose addresses the kernel translates, as a host on that side sees it.
type Flow struct {
	Near, Far netip.AddrPort // what it has itself, and what it speaks to; ports are zero where the protocol has none
	Proto     uint8          // as in the IP header
}

// What include/uapi/linux/netfilter/nf_conntrack_common.h calls IPS_SRC_NAT and IPS_DST_NAT.
const translated = 1<<4 | 1<<5

// Translated lists the connections of the kernel's tracking table whose addresses it translates, each as its one end and as
// its other sees it. While it reads, some may come and go. A kernel that has no such table translates nothing.
func (k *Kernel) Translated(ctx context.Context) (all []Flow, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var w *wire // its own: a large table takes longer to read than others should wait
	if err := k.inside(func() (err error) { w, err = dial(); return err }); err != nil {
		return nil, err
	}
	defer func() { _ = w.close() }()
	w.end = ctx.Done()
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		some, err := w.translated(family)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("read connections: %w", ctx.Err())
		}
		if err != nil && !errors.Is(err, unix.EINVAL) { // of a subsystem that is not there
			return nil, fmt.Errorf("read connections: %w", err)
		}
		all = append(all, some...)
	}
	return all, nil
}

func (w *wire) translated(family uint8) (all []Flow, err error) {
	for range dumpTries {
		all = all[:0]
		err = w.ask(connRequest(nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP, family), func(body []byte) {
			all = append(all, sides(body)...)
		})
		if !errors.Is(err, errTorn) {
			return all, err
		}
	}
	return all, nil // what was read is good enough after some tries
}

// sides are the two ends of a row of the table, none when nothing is translated. What sent the first packet knows the other
// end as it is in the original direction, and that one knows it as it is in the answers'.
func sides(body []byte) []Flow {
	var first, answer Flow
	var status uint32
	for kind, value := range attributes(body) {
		switch kind {
		case nl.CTA_TUPLE_ORIG:
			first.Proto, first.Near, first.Far = tuple(value)
		case nl.CTA_TUPLE_REPLY:
			answer.Proto, answer.Near, answer.Far = tuple(value)
		case nl.CTA_STATUS:
			if len(value) == 4 {
				status = binary.BigEndian.Uint32(value)
			}
		}
	}
	if status&translated == 0 {
		return nil
	}
	return []Flow{first, answer}
}
