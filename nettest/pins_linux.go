package nettest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// pinsIn is where in a directory of ours eBPF objects may be pinned.
const pinsIn = "bpf"

// MountPins mounts a file system for the pins of eBPF objects in dir, and returns where; it goes with the test, whatever
// is open in it. So tests never pin into the machine's own.
func MountPins(t T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, pinsIn)
	err := os.MkdirAll(path, 0o700)
	if err == nil {
		err = unix.Mount("bpf", path, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700")
	}
	if err != nil {
		t.Fatalf("mount a file system for pins: %v", err)
	}
	t.Cleanup(func() { _ = unmountPins(dir) })
	return path
}

// unmountPins ends what is pinned there, once nobody has it open. Where nothing is mounted it does nothing.
func unmountPins(dir string) error {
	err := unix.Unmount(filepath.Join(dir, pinsIn), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount the file system for pins: %w", err)
	}
	return nil
}

// RemoveDir removes the directory of a lab with the pins in it.
func RemoveDir(dir string) error {
	if err := unmountPins(dir); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}
