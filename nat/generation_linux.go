package nat

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const generationID = 1 // NFTA_GEN_ID, include/uapi/linux/netfilter/nf_tables.h

// generation is the number of nf_tables' rules in the namespace, which goes up by one with each change of any of them.
func (k *Kernel) generation() (n uint32, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.wire == nil {
		if err := k.inside(func() (err error) { k.wire, err = dial(); return err }); err != nil {
			return 0, err
		}
	}
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN, unix.NLM_F_ACK)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: nl.NFNETLINK_V0})
	err = errors.New("no answer")
	asked := k.wire.ask(req, func(body []byte) {
		for kind, value := range attributes(body) {
			if kind == generationID && len(value) == 4 {
				n, err = binary.BigEndian.Uint32(value), nil
			}
		}
	})
	if asked != nil {
		err = asked
	}
	if err != nil {
		return 0, fmt.Errorf("ask nf_tables for its generation: %w", err)
	}
	return n, nil
}
