package nat

import (
	"fmt"

	"golang.org/x/sys/unix"
)

const (
	// reservedFile lists the ports of the thread's network namespace that the kernel does not choose by itself.
	reservedFile = "/proc/sys/net/ipv4/ip_local_reserved_ports"
	reservedPart = 4000 // bytes; of one write the kernel reads less than a page
)

// reserved reads the ports that the kernel does not choose in the thread's network namespace. The kernel gives the list
// to one read only, so what does not fit is asked for again.
func reserved() (*numbers, error) {
	fd, err := unix.Open(reservedFile, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", reservedFile, err)
	}
	defer unix.Close(fd)
	for size := 1 << 12; ; size <<= 2 {
		text := make([]byte, size)
		n, err := unix.Pread(fd, text, 0)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", reservedFile, err)
		}
		if n < size {
			return parseNumbers(string(text[:n]))
		}
	}
}

// reserve adds ports to those. A write behind the beginning of the file adds to what is there (proc_do_large_bitmap in
// kernel/sysctl.c), so what others write at the same time is not lost.
func reserve(more *numbers) error {
	return writeReserved(more.parts(reservedPart), 1)
}

// unreserve takes ports away from those. There is no other way than to write all that are left. What is too long for one
// write is short of the rest until the last, some microseconds later.
func unreserve(fewer *numbers) error {
	set, err := reserved()
	if err != nil {
		return err
	}
	for n := range fewer.all() {
		set.remove(n)
	}
	return writeReserved(set.parts(reservedPart), 0)
}

// writeReserved writes the first part at an offset and the rest behind the beginning.
func writeReserved(parts []string, offset int64) error {
	fd, err := unix.Open(reservedFile, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", reservedFile, err)
	}
	defer unix.Close(fd)
	for _, part := range parts {
		if _, err := unix.Pwrite(fd, []byte(part), offset); err != nil {
			return fmt.Errorf("write %s: %w", reservedFile, err)
		}
		offset = 1
	}
	return nil
}
