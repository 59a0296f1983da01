package nat

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const newsRoom = 1 << 23 // bytes of the receive buffer, which are taken only when many rules change at once

// news is a socket to which nf_tables tells every change of its rules in one network namespace.
type news struct {
	at   site // that it is about
	file *os.File
	raw  syscall.RawConn
	lost atomic.Bool // told to the one who only waited: the kernel says it once, also to a peek
	buf  []byte
	done sync.WaitGroup
}

func listen(at site) (*news, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, newsRoom)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	}
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, unix.NFNLGRP_NFTABLES)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("listen to nf_tables: %w", err)
	}
	n := &news{at: at, file: os.NewFile(uintptr(fd), "netlink"), buf: make([]byte, bufferSize)}
	if n.raw, err = n.file.SyscallConn(); err != nil {
		n.file.Close()
		return nil, fmt.Errorf("listen to nf_tables: %w", err)
	}
	return n, nil
}

func (n *news) close() error {
	err := n.file.Close()
	n.done.Wait()
	return err
}

// tend pokes when news came after which something must be read again, until the kernel is closed.
func (k *Kernel) tend(n *news, unsettled func() bool, poke func()) {
	k.mu.Lock()
	k.news = append(k.news, n)
	k.mu.Unlock()
	n.done.Go(func() {
		for n.wait() {
			if unsettled() {
				poke()
			}
		}
	})
}

// unsettled reads the news, and tells whether the chain must be read again because of them.
func (c *Chain) unsettled() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	known := c.last.rows != nil
	if !c.news.concern() {
		return false
	}
	c.last.rows = nil
	return known // otherwise it is to be read again already
}

// wait returns when there is something to read, and false when the socket was closed.
func (n *news) wait() bool {
	err := n.raw.Read(func(fd uintptr) bool {
		_, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		if errors.Is(err, unix.ENOBUFS) {
			n.lost.Store(true)
		}
		return !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
	})
	return err == nil
}

// concern reads all that has come and tells whether any of it is about the site or its hooks. What was lost may have been.
func (n *news) concern() bool {
	concerned := n.lost.Swap(false)
	err := n.raw.Control(func(fd uintptr) {
		for {
			size, _, err := unix.Recvfrom(int(fd), n.buf, unix.MSG_DONTWAIT)
			switch {
			case errors.Is(err, unix.EINTR):
			case errors.Is(err, unix.EAGAIN):
				return
			case err != nil: // ENOBUFS as a rule
				concerned = true
				if !errors.Is(err, unix.ENOBUFS) {
					return
				}
			default:
				concerned = concerned || n.at.about(n.buf[:size])
			}
		}
	})
	return concerned || err != nil
}

// forget reads all that has come.
func (n *news) forget() { n.concern() }

// about tells whether a datagram of nf_tables is about a chain of the site or a hook, or about the whole table.
func (at site) about(datagram []byte) bool {
	messages, err := syscall.ParseNetlinkMessage(datagram)
	if err != nil {
		return true
	}
	return slices.ContainsFunc(messages, func(m syscall.NetlinkMessage) bool {
		family, of, chain := subject(m)
		return (family == unix.AF_INET || family == unix.AF_INET6) && of == at.table &&
			(chain == "" || at.ours(chain) || slices.ContainsFunc(at.hooks, func(h hook) bool { return h.chain == chain }))
	})
}

// subject is what a message of nf_tables is about; the chain is empty when that is the table itself.
func subject(m syscall.NetlinkMessage) (family uint8, of, chain string) {
	if m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || len(m.Data) < nl.SizeofNfgenmsg {
		return 0, "", ""
	}
	var named uint16 // the attribute with the name of the chain; that with the name of the table is always the first
	switch m.Header.Type & 0xff {
	case unix.NFT_MSG_NEWTABLE, unix.NFT_MSG_DELTABLE:
	case unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN:
		named = unix.NFTA_CHAIN_NAME
	case unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE:
		named = unix.NFTA_RULE_CHAIN
	default:
		return 0, "", ""
	}
	for kind, value := range attributes(m.Data[nl.SizeofNfgenmsg:]) {
		switch {
		case kind == unix.NFTA_TABLE_NAME:
			of = unix.ByteSliceToString(value)
		case named != 0 && kind == named:
			chain = unix.ByteSliceToString(value)
		}
	}
	return m.Data[0], of, chain
}
