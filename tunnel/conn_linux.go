package tunnel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"sync"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// conn is a route netlink socket. It stays in the network namespace in which it was opened, whichever thread uses it.
//
// Several requests travel in one message and are answered by sequence number. Dumps are strict (NETLINK_GET_STRICT_CHK):
// the kernel itself leaves out what was not asked for, so that a host with a hundred thousand foreign routes sends none
// of them to us.
type conn struct {
	mu  sync.Mutex
	fd  int
	pid uint32 // the port that the kernel names as the author of our changes
	seq uint32
	buf []byte
}

const (
	batch       = 128     // requests per send: their answers must fit the receive buffer
	receiveRoom = 1 << 20 // bytes
	bufferSize  = 1 << 16 // the kernel makes dump messages of at most 32 KiB
	answerTime  = 10      // seconds; the kernel answers while we send, so this is never waited for
	dumpTries   = 4
)

func dial() (*conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	c := &conn{fd: fd, buf: make([]byte, bufferSize)}
	if err := c.setup(); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("set up netlink socket: %w", err)
	}
	return c, nil
}

func (c *conn) setup() error {
	for _, option := range []int{unix.NETLINK_GET_STRICT_CHK, unix.NETLINK_EXT_ACK, unix.NETLINK_CAP_ACK} {
		if err := unix.SetsockoptInt(c.fd, unix.SOL_NETLINK, option, 1); err != nil {
			return err
		}
	}
	if err := unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveRoom); err != nil {
		return err
	}
	if err := unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: answerTime}); err != nil {
		return err
	}
	if err := unix.Bind(c.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	name, err := unix.Getsockname(c.fd)
	if err != nil {
		return err
	}
	if a, ok := name.(*unix.SockaddrNetlink); ok {
		c.pid = a.Pid
	}
	return nil
}

func (c *conn) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	fd := c.fd
	c.fd = -1 // whoever comes late must not write to what gets the number next
	return unix.Close(fd)
}

// do sends the requests and returns the error of each, nil where the kernel did it. Answers other than that go to
// reply, with the index of their request; what it is given is good only until it returns.
func (c *conn) do(ctx context.Context, reqs []*nl.NetlinkRequest, reply func(i int, body []byte)) []error {
	c.mu.Lock()
	defer c.mu.Unlock()
	errs := make([]error, len(reqs))
	for at := 0; at < len(reqs); at += batch {
		part := reqs[at:min(at+batch, len(reqs))]
		err := ctx.Err()
		if err == nil {
			err = c.exchange(part, errs[at:], func(i int, body []byte) { reply(at+i, body) })
		}
		if err != nil {
			for i := at; i < len(reqs); i++ {
				errs[i] = errors.Join(errs[i], err)
			}
			return errs
		}
	}
	return errs
}

// one is do for a single request.
func (c *conn) one(ctx context.Context, req *nl.NetlinkRequest, reply func(body []byte)) error {
	return c.do(ctx, []*nl.NetlinkRequest{req}, func(_ int, body []byte) { reply(body) })[0]
}

// write is do for requests that have no answer but done.
func (c *conn) write(ctx context.Context, reqs ...*nl.NetlinkRequest) []error {
	return c.do(ctx, reqs, func(int, []byte) {})
}

func (c *conn) exchange(reqs []*nl.NetlinkRequest, errs []error, reply func(i int, body []byte)) error {
	first := c.seq + 1
	var out []byte
	for _, r := range reqs {
		c.seq++
		r.Seq = c.seq
		r.Flags |= unix.NLM_F_REQUEST | unix.NLM_F_ACK
		out = append(out, r.Serialize()...)
	}
	if err := c.send(out); err != nil {
		return err
	}
	for left := len(reqs); left > 0; {
		messages, err := c.receive()
		if err != nil {
			return err
		}
		for m := range messages {
			// What answers an earlier, abandoned request wraps around to a large number.
			i := m.seq - first
			switch {
			case i >= uint32(len(reqs)):
			case m.kind == unix.NLMSG_ERROR:
				errs[i] = m.failure()
				left--
			default:
				reply(int(i), m.body)
			}
		}
	}
	return nil
}

// dump asks for a table and gives every row's message to row. A table that changed while it was read is read again from
// begin, a few times: after that what was read is good enough, since puts and deletes are idempotent and the change
// brings another pass.
func (c *conn) dump(ctx context.Context, req *nl.NetlinkRequest, begin func(), row func(body []byte)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for range dumpTries {
		if err := ctx.Err(); err != nil {
			return err
		}
		begin()
		torn, err := c.read(req, row)
		if err != nil || !torn {
			return err
		}
	}
	return nil
}

func (c *conn) read(req *nl.NetlinkRequest, row func(body []byte)) (torn bool, err error) {
	c.seq++
	req.Seq = c.seq
	req.Flags |= unix.NLM_F_REQUEST | unix.NLM_F_DUMP
	if err := c.send(req.Serialize()); err != nil {
		return false, err
	}
	for {
		messages, err := c.receive()
		if err != nil {
			return false, err
		}
		for m := range messages {
			if m.seq != c.seq {
				continue
			}
			torn = torn || m.flags&unix.NLM_F_DUMP_INTR != 0
			switch m.kind {
			case unix.NLMSG_DONE, unix.NLMSG_ERROR:
				return torn, m.failure()
			default:
				row(m.body)
			}
		}
	}
}

func (c *conn) send(b []byte) error {
	if err := unix.Sendto(c.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("send to kernel: %w", err)
	}
	return nil
}

func (c *conn) receive() (iter.Seq[message], error) {
	for {
		n, _, flags, _, err := unix.Recvmsg(c.fd, c.buf, nil, 0)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return nil, fmt.Errorf("receive from kernel: %w", err)
		case flags&unix.MSG_TRUNC != 0:
			return nil, fmt.Errorf("receive from kernel: %w", unix.EMSGSIZE)
		default:
			return split(c.buf[:n]), nil
		}
	}
}

// message is one netlink message.
type message struct {
	kind, flags uint16
	seq, pid    uint32
	body        []byte
}

// split goes through the messages of one datagram.
func split(b []byte) iter.Seq[message] {
	return func(yield func(message) bool) {
		for len(b) >= unix.SizeofNlMsghdr {
			size := int(binary.NativeEndian.Uint32(b))
			if size < unix.SizeofNlMsghdr || size > len(b) {
				return
			}
			m := message{
				kind:  binary.NativeEndian.Uint16(b[4:]),
				flags: binary.NativeEndian.Uint16(b[6:]),
				seq:   binary.NativeEndian.Uint32(b[8:]),
				pid:   binary.NativeEndian.Uint32(b[12:]),
				body:  b[unix.SizeofNlMsghdr:size],
			}
			if !yield(m) {
				return
			}
			b = b[min(align(size), len(b)):]
		}
	}
}

// failure is the error that an acknowledgement or the end of a dump carries, with the kernel's own words for it where it
// has some.
func (m message) failure() error {
	if len(m.body) < 4 {
		return nil
	}
	code := int32(binary.NativeEndian.Uint32(m.body))
	if code == 0 {
		return nil
	}
	err := error(unix.Errno(-code))
	words := m.body[4:]
	if m.kind == unix.NLMSG_ERROR && len(words) >= unix.SizeofNlMsghdr {
		words = words[unix.SizeofNlMsghdr:]
	}
	if m.flags&unix.NLM_F_ACK_TLVS != 0 {
		for kind, value := range attributes(words) {
			if kind == unix.NLMSGERR_ATTR_MSG {
				err = fmt.Errorf("%s: %w", text(value), err)
			}
		}
	}
	return err
}

// attributes goes through the attributes of a message.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofRtAttr {
			size := int(binary.NativeEndian.Uint16(b))
			if size < unix.SizeofRtAttr || size > len(b) {
				return
			}
			kind := binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
			if !yield(kind, b[unix.SizeofRtAttr:size]) {
				return
			}
			b = b[min(align(size), len(b)):]
		}
	}
}

func align(n int) int { return (n + 3) &^ 3 }

// number reads an attribute of one, two or four bytes.
func number(b []byte) int {
	switch {
	case len(b) >= 4:
		return int(binary.NativeEndian.Uint32(b))
	case len(b) >= 2:
		return int(binary.NativeEndian.Uint16(b))
	case len(b) == 1:
		return int(b[0])
	default:
		return 0
	}
}

func text(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}
