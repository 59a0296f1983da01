package tunnel

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ethtoolValue is struct ethtool_value of linux/ethtool.h.
type ethtoolValue struct{ command, data uint32 }

// ethtoolRequest is struct ifreq as SIOCETHTOOL takes it: a link's name, and where the value is.
type ethtoolRequest struct {
	name  [unix.IFNAMSIZ]byte
	value *ethtoolValue
	_     [24 - unsafe.Sizeof(uintptr(0))]byte // the rest of the union
}

// ethtool does one command on a link of the namespace that the socket is of. It is the old interface, which every kernel
// has; the kernel itself changes those features that hang on the one.
func ethtool(fd int, name string, v *ethtoolValue) error {
	req := ethtoolRequest{value: v}
	copy(req.name[:unix.IFNAMSIZ-1], name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
	if errno != 0 {
		return errno
	}
	return nil
}

// ReadOffload tells how a link of the calling thread's network namespace is. It needs no privilege. The error is ENODEV
// when there is no link of the name.
func ReadOffload(name string) (Offload, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("open socket: %w", err)
	}
	defer unix.Close(fd)
	return readOffload(fd, name)
}

func readOffload(fd int, name string) (Offload, error) {
	v := ethtoolValue{command: unix.ETHTOOL_GTXCSUM}
	if err := ethtool(fd, name, &v); err != nil {
		return "", fmt.Errorf("read checksum offload of %s: %w", name, err)
	}
	if v.data == 0 {
		return OffloadOff, nil
	}
	return OffloadOn, nil
}

// readOffload tells how a link is. It waits, like every reading of a link, for whoever changes one.
func (k *Kernel) readOffload(name string) (Offload, error) { return readOffload(k.conn.fd, name) }

// setOffload turns the offload of a link on or off, while packets flow. TCP's segmentation offload goes and comes with it.
func (k *Kernel) setOffload(name string, o Offload) error {
	v := ethtoolValue{command: unix.ETHTOOL_STXCSUM}
	if o != OffloadOff {
		v.data = 1
	}
	if err := ethtool(k.conn.fd, name, &v); err != nil {
		return fmt.Errorf("turn checksum offload of %s %s: %w", name, o, err)
	}
	return nil
}
