package fastpath

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/reconcile"
)

const (
	skipStats = 1 << 3 // RTEXT_FILTER_SKIP_STATS: keeps the counters of links out of answers, most of their size
	dumpTries = 4      // of a listing that changed while it was read; then it is good enough, since another pass follows
)

// deviceIndex finds a link of the thread's network namespace by its name. One that is not there yet is waited for.
func deviceIndex(name string) (int, error) {
	req, err := unix.NewIfreq(name)
	if err != nil {
		return 0, noDevice(name)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open socket: %w", err)
	}
	defer unix.Close(fd)
	switch err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, req); {
	case errors.Is(err, unix.ENODEV):
		return 0, noDevice(name)
	case err != nil:
		return 0, fmt.Errorf("find link %s: %w", name, err)
	}
	return int(req.Uint32()), nil
}

func noDevice(name string) error {
	return fmt.Errorf("link %s %w: %w", name, reconcile.ErrWaits, unix.ENODEV)
}

// waits marks the error of a put whose link went meanwhile.
func waits(err error) error {
	if errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("%w: %w", reconcile.ErrWaits, err)
	}
	return err
}

// deviceNames reads the names of all links of the thread's network namespace, by their index.
func deviceNames() (names map[int]string, err error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(skipStats)))
	err = dump(req, unix.RTM_NEWLINK, func() { names = make(map[int]string) }, func(body []byte) {
		names[int(number(body[4:]))] = unix.ByteSliceToString(attribute(body[unix.SizeofIfInfomsg:], unix.IFLA_IFNAME))
	})
	if err != nil {
		return nil, fmt.Errorf("read links: %w", err)
	}
	return names, nil
}

// dump asks for a table and gives each row's message to row. One that changed while it was read is read again from begin.
func dump(req *nl.NetlinkRequest, kind uint16, begin func(), row func(body []byte)) (err error) {
	for range dumpTries {
		begin()
		err = req.ExecuteIter(unix.NETLINK_ROUTE, kind, func(body []byte) bool {
			row(body)
			return true
		})
		if !errors.Is(err, nl.ErrDumpInterrupted) {
			return err
		}
	}
	return nil
}

// attribute is the value of a message's attribute, nil when it has none of the kind.
func attribute(b []byte, kind uint16) []byte {
	for len(b) >= unix.SizeofRtAttr {
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofRtAttr || size > len(b) {
			return nil
		}
		if binary.NativeEndian.Uint16(b[2:])&^unix.NLA_F_NESTED == kind {
			return b[unix.SizeofRtAttr:size]
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return nil
}

// number is the value of an attribute of four bytes, 0 when it is absent.
func number(value []byte) uint32 {
	if len(value) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(value)
}
