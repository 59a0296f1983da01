package nat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	bufferSize = 1 << 16 // bytes; the kernel makes listings of at most 32 KiB a message
	answerTime = 10      // seconds; the kernel answers while we send, so this is never waited for
	dumpTries  = 4       // of a listing that changed while it was read
)

var (
	errTorn    = errors.New("changed while it was read") // of a listing
	errGivenUp = errors.New("given up")                  // of an answer
)

// wire is a socket to the kernel's packet filter (nfnetlink). It stays in the network namespace in which it was opened.
type wire struct {
	fd  int
	seq uint32
	buf []byte
	end <-chan struct{} // once it is closed no answer is heard to its end; nil: always
}

func dial() (*wire, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: answerTime})
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("set up netlink socket: %w", err)
	}
	return &wire{fd: fd, buf: make([]byte, bufferSize)}, nil
}

func (w *wire) close() error { return unix.Close(w.fd) }

// ask sends one request and waits for its end. What the kernel answers before that goes to answer, without the header of
// nfnetlink; it is good only until answer returns.
func (w *wire) ask(req *nl.NetlinkRequest, answer func(body []byte)) error {
	w.seq++
	req.Seq = w.seq
	if err := unix.Sendto(w.fd, req.Serialize(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("send to kernel: %w", err)
	}
	torn := false
	for {
		select {
		case <-w.end:
			return errGivenUp
		default:
		}
		n, _, err := unix.Recvfrom(w.fd, w.buf, 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("receive from kernel: %w", err)
		}
		messages, err := syscall.ParseNetlinkMessage(w.buf[:n])
		if err != nil {
			return fmt.Errorf("understand the kernel: %w", err)
		}
		for _, m := range messages {
			torn = torn || m.Header.Flags&unix.NLM_F_DUMP_INTR != 0
			switch {
			case m.Header.Seq != w.seq: // of an earlier request, given up
			case m.Header.Type == unix.NLMSG_DONE || m.Header.Type == unix.NLMSG_ERROR:
				return outcome(m.Data, torn)
			default:
				answer(m.Data[min(len(m.Data), nl.SizeofNfgenmsg):])
			}
		}
	}
}

// outcome is the error that the last message of an answer bears.
func outcome(body []byte, torn bool) error {
	if len(body) >= 4 {
		if code := int32(binary.NativeEndian.Uint32(body)); code != 0 {
			return unix.Errno(-code)
		}
	}
	if torn {
		return errTorn
	}
	return nil
}

// attributes goes through the attributes of a message.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) > 0 {
			kind, value, rest := attribute(b)
			if value == nil || !yield(kind, value) {
				return
			}
			b = rest
		}
	}
}

// attribute is the first of b, and what comes behind it. It is nil, and so is the rest, where there is none.
func attribute(b []byte) (kind uint16, value, rest []byte) {
	if len(b) < unix.SizeofRtAttr {
		return 0, nil, nil
	}
	size := int(binary.NativeEndian.Uint16(b))
	if size < unix.SizeofRtAttr || size > len(b) {
		return 0, nil, nil
	}
	kind = binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
	return kind, b[unix.SizeofRtAttr:size], b[min((size+3)&^3, len(b)):]
}
