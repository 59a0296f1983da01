package endpoint

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// wire is a netlink socket to the routing tables of one network namespace: the one its thread was in when it was opened.
//
// It sends several requests in one system call and reads the answers at once, where netlink.Handle pays a send, a poll
// and three receives for each: an attachment is a dozen requests.
type wire struct {
	fd  int
	seq uint32
	buf []byte
}

// errWire says that the socket itself failed; what it would say next belongs to an earlier question.
var errWire = errors.New("netlink socket failed")

const (
	wireBuffer  = 64 << 10 // more than the largest part of a dump
	wireTimeout = 10       // seconds; the kernel answers within the call
)

// dial opens a wire in the namespace of the calling thread. It reads into buf.
func dial(buf []byte) (*wire, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	w := &wire{fd: fd, buf: buf}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1),
		unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: wireTimeout}),
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
	)
	if err != nil {
		w.close()
		return nil, fmt.Errorf("set up netlink socket: %w", err)
	}
	return w, nil
}

func (w *wire) close() { _ = unix.Close(w.fd) }

// send sends reqs in one datagram; the kernel works through all of them, also after a failed one.
func (w *wire) send(reqs []*nl.NetlinkRequest) (first uint32, err error) {
	var out []byte
	first = w.seq + 1
	for _, r := range reqs {
		w.seq++
		r.Seq = w.seq
		out = append(out, r.Serialize()...)
	}
	if err := unix.Sendto(w.fd, out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, fmt.Errorf("%w: send: %w", errWire, err)
	}
	return first, nil
}

// apply carries out reqs, which must ask for acknowledgement, in order. The result has an entry for each: nil, or the
// kernel's errno with its explanation.
func (w *wire) apply(reqs ...*nl.NetlinkRequest) ([]error, error) {
	if len(reqs) == 0 {
		return nil, nil
	}
	first, err := w.send(reqs)
	if err != nil {
		return nil, err
	}
	results := make([]error, len(reqs))
	for left := len(reqs); left > 0; {
		msgs, err := w.receive()
		if err != nil {
			return nil, err
		}
		for _, m := range msgs {
			i := m.Header.Seq - first
			if m.Header.Type == unix.NLMSG_ERROR && i < uint32(len(reqs)) {
				results[i] = acknowledged(m)
				left--
			}
		}
	}
	return results, nil
}

// one carries out a single request.
func (w *wire) one(req *nl.NetlinkRequest) error {
	results, err := w.apply(req)
	if err != nil {
		return err
	}
	return results[0]
}

// ask carries out a request that has one answer, and returns its body; it is valid until the next request.
func (w *wire) ask(req *nl.NetlinkRequest) ([]byte, error) {
	first, err := w.send([]*nl.NetlinkRequest{req})
	if err != nil {
		return nil, err
	}
	for {
		msgs, err := w.receive()
		if err != nil {
			return nil, err
		}
		for _, m := range msgs {
			switch {
			case m.Header.Seq != first:
			case m.Header.Type == unix.NLMSG_ERROR:
				return nil, acknowledged(m)
			default:
				return m.Data, nil
			}
		}
	}
}

// dump asks and hands each answer to fn, until the kernel says that it has no more.
//
// A dump that something interrupted may have holes; it is asked for again a few times.
func (w *wire) dump(req func() *nl.NetlinkRequest, reset func(), fn func(data []byte)) error {
	for range 5 {
		reset()
		whole, err := w.dumpOnce(req(), fn)
		if whole || err != nil {
			return err
		}
	}
	return errors.New("read the kernel's tables: they change faster than they can be read")
}

func (w *wire) dumpOnce(req *nl.NetlinkRequest, fn func(data []byte)) (whole bool, err error) {
	first, err := w.send([]*nl.NetlinkRequest{req})
	if err != nil {
		return false, err
	}
	whole = true
	for {
		msgs, err := w.receive()
		if err != nil {
			return false, err
		}
		for _, m := range msgs {
			if m.Header.Seq != first {
				continue
			}
			whole = whole && m.Header.Flags&unix.NLM_F_DUMP_INTR == 0
			switch m.Header.Type {
			case unix.NLMSG_ERROR, unix.NLMSG_DONE:
				return whole, acknowledged(m)
			default:
				fn(m.Data)
			}
		}
	}
}

// receive reads one datagram. What it returns is valid until the next one.
func (w *wire) receive() ([]syscall.NetlinkMessage, error) {
	for {
		n, from, err := unix.Recvfrom(w.fd, w.buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%w: receive: %w", errWire, err)
		}
		if k, ok := from.(*unix.SockaddrNetlink); !ok || k.Pid != 0 {
			continue // only the kernel is listened to
		}
		msgs, err := syscall.ParseNetlinkMessage(w.buf[:n])
		if err != nil {
			return nil, fmt.Errorf("%w: read message: %w", errWire, err)
		}
		return msgs, nil
	}
}

// acknowledged is the error that an NLMSG_ERROR or NLMSG_DONE carries, with the kernel's own words where it gave some.
func acknowledged(m syscall.NetlinkMessage) error {
	if len(m.Data) < 4 {
		return nil
	}
	code := -int32(binary.NativeEndian.Uint32(m.Data))
	if code <= 0 {
		return nil
	}
	err := error(unix.Errno(code))
	const header = 4 + unix.SizeofNlMsghdr // NETLINK_CAP_ACK leaves only the header of the request
	if m.Header.Type != unix.NLMSG_ERROR || m.Header.Flags&unix.NLM_F_ACK_TLVS == 0 || len(m.Data) < header {
		return err
	}
	attrs, parseErr := nl.ParseRouteAttr(m.Data[header:])
	if parseErr != nil {
		return err
	}
	for _, a := range attrs {
		if a.Attr.Type == nl.NLMSGERR_ATTR_MSG {
			return fmt.Errorf("%w (%s)", err, unix.ByteSliceToString(a.Value))
		}
	}
	return err
}

// request is a message of kind with body first and then attributes.
func request(kind, flags int, body nl.NetlinkRequestData, attrs ...*nl.RtAttr) *nl.NetlinkRequest {
	r := &nl.NetlinkRequest{NlMsghdr: unix.NlMsghdr{
		Len: unix.SizeofNlMsghdr, Type: uint16(kind), Flags: uint16(unix.NLM_F_REQUEST | flags),
	}}
	r.AddData(body)
	for _, a := range attrs {
		r.AddData(a)
	}
	return r
}
