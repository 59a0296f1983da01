package nat

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Attributes of include/uapi/linux/netfilter/nf_tables.h.
const (
	generationID = 1 // NFTA_GEN_ID
	ofTable      = 1 // NFTA_TABLE_NAME and NFTA_CHAIN_TABLE
	chainName    = 3 // NFTA_CHAIN_NAME
)

// generation is the number of nf_tables' rules in the namespace, which goes up by one with each change of any of them.
func (k *Kernel) generation() (n uint32, err error) {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN, unix.NLM_F_ACK)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: nl.NFNETLINK_V0})
	err = errors.New("no answer")
	asked := k.askTables(req, func(body []byte) {
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

// lacks tells that nf_tables has no such table of a family, or no such chain in it when one is named. Asking iptables
// would take a program that has to be started. When it is not sure, it may be there.
func (k *Kernel) lacks(family int, table, chain string) bool {
	kind := unix.NFT_MSG_GETTABLE
	if chain != "" {
		kind = unix.NFT_MSG_GETCHAIN
	}
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|kind, unix.NLM_F_ACK)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: map[int]uint8{4: unix.AF_INET, 6: unix.AF_INET6}[family], Version: nl.NFNETLINK_V0})
	req.AddData(nl.NewRtAttr(ofTable, nl.ZeroTerminated(table)))
	if chain != "" {
		req.AddData(nl.NewRtAttr(chainName, nl.ZeroTerminated(chain)))
	}
	return errors.Is(k.askTables(req, func([]byte) {}), unix.ENOENT)
}

func (k *Kernel) askTables(req *nl.NetlinkRequest, answer func(body []byte)) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.wire == nil {
		if err := k.inside(func() (err error) { k.wire, err = dial(); return err }); err != nil {
			return err
		}
	}
	return k.wire.ask(req, answer)
}
