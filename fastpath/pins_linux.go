package fastpath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	bpffs     = "/sys/fs/bpf"
	lockWait  = 5 * time.Second
	lockPause = 2 * time.Millisecond
)

// errBusy is another daemon that has been at the pins for too long.
var errBusy = errors.New("another daemon is at work there")

// dirHere is the directory below pinDir for the pins of the thread's network namespace. Daemons of several namespaces
// share the one above.
func dirHere(pinDir string) (string, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("open socket: %w", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return "", fmt.Errorf("ask for the cookie of the network namespace (Linux 5.14): %w", err)
	}
	return filepath.Join(pinDir, fmt.Sprintf("fast-%x", cookie)), nil
}

// lockDir makes the directory of pins and keeps other daemons from it until what it returns is closed.
func lockDir(dir string) (*os.File, error) {
	if err := mountAbove(dir); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(lockWait); ; {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make directory of pins: %w", err)
		}
		f, err := os.Open(dir)
		if err != nil {
			return nil, fmt.Errorf("open directory of pins: %w", err)
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil && isAt(f, dir) {
			return f, nil
		}
		f.Close()
		if err != nil && !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", dir, err)
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("lock %s: %w", dir, errBusy)
		}
		time.Sleep(lockPause)
	}
}

// isAt tells whether the file is still the one that has the name.
func isAt(f *os.File, path string) bool {
	held, err := f.Stat()
	if err != nil {
		return false
	}
	named, err := os.Stat(path)
	return err == nil && os.SameFile(held, named)
}

// mountAbove sees to it that the directory is in a file system that takes pins: it mounts the usual one if it is missing.
func mountAbove(dir string) error {
	if within := dir == bpffs || strings.HasPrefix(dir, bpffs+"/"); within && !takesPins(bpffs) {
		if err := unix.Mount("bpf", bpffs, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
			return fmt.Errorf("mount %s: %w", bpffs, err)
		}
	}
	there := filepath.Clean(dir)
	for !exists(there) && there != filepath.Dir(there) {
		there = filepath.Dir(there)
	}
	if !takesPins(there) {
		return fmt.Errorf("%s is in no bpf file system", dir)
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func takesPins(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && uint32(st.Type) == unix.BPF_FS_MAGIC
}
