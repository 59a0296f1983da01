package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

// lockPause is the time between two tries for a lock that somebody else holds.
const lockPause = 20 * time.Millisecond

// room is what a new file has at once, in bytes: enough for some thousand leases. A disk that fills up later does not
// stop a node that stays within it, and a sync that has no new blocks to note is faster.
const room = 1 << 20

// openFile opens the file at path for writing, made or examined before.
func openFile(ctx context.Context, path string, o Options) (*bbolt.DB, error) {
	if err := makeDir(filepath.Dir(path)); err != nil {
		return nil, readOnly(full(err))
	}
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		bolt, err := create(path)
		if !errors.Is(err, fs.ErrExist) {
			return bolt, err
		}
		// Another process made it in this moment: it is an existing file like any other.
	} else if err != nil {
		return nil, err
	}
	if err := examine(ctx, path, o); err != nil {
		return nil, err
	}
	bolt, err := bbolt.Open(path, 0o600, boltOptions(o.Timeout))
	if errors.Is(err, bbolterrors.ErrTimeout) {
		return nil, locked()
	}
	if err != nil {
		return nil, readOnly(full(err))
	}
	return bolt, nil
}

// makeDir makes the directory and those above it, durably: a new store is no safer than the name of its directory.
func makeDir(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := makeDir(filepath.Dir(dir)); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(filepath.Dir(dir))
}

func boltOptions(timeout time.Duration) *bbolt.Options {
	return &bbolt.Options{
		Timeout:         timeout,
		FreelistType:    bbolt.FreelistMapType,
		NoStatistics:    true,
		InitialMmapSize: room,
	}
}

// create makes a new store under a temporary name and gives it its own when it is whole, so that an empty or short
// file at path is always damage and never a beginning. fs.ErrExist means that another process was faster.
func create(path string) (*bbolt.DB, error) {
	draft := path + ".new"
	o := boltOptions(time.Second)
	o.OpenFile = openDraft
	bolt, err := bbolt.Open(draft, 0o600, o)
	if err != nil {
		return nil, readOnly(full(err))
	}
	if err := settle(bolt, draft, path); err != nil {
		_ = os.Remove(draft) // half a store is of no use, and can be what fills the disk
		return nil, errors.Join(full(err), bolt.Close())
	}
	return bolt, nil
}

// settle makes a whole store of a draft. The lock belongs to the open file and goes with it to the new name.
func settle(bolt *bbolt.DB, draft, path string) error {
	if err := makeRoom(draft); err != nil {
		return err
	}
	if err := bolt.Update(func(b *bbolt.Tx) error { return found(&Tx{bolt: b}, current().version) }); err != nil {
		return err
	}
	if err := unix.Renameat2(unix.AT_FDCWD, draft, unix.AT_FDCWD, path, unix.RENAME_NOREPLACE); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// makeRoom writes zeros behind what the file has.
func makeRoom(name string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil {
		_, err = f.Write(make([]byte, max(0, room-info.Size())))
	}
	return errors.Join(err, f.Sync(), f.Close())
}

// openDraft opens the draft of a new store empty, whatever an interrupted attempt left in it.
func openDraft(name string, flag int, mode os.FileMode) (*os.File, error) {
	f, err := os.OpenFile(name, flag, mode)
	if err != nil {
		return nil, err
	}
	if err := claimDraft(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func claimDraft(f *os.File) error {
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return locked()
	}
	mine, err := f.Stat()
	if err != nil {
		return err
	}
	// Between open and lock another process can have finished this very file and given it its name.
	named, err := os.Stat(f.Name())
	if err != nil || !os.SameFile(mine, named) {
		return locked()
	}
	return f.Truncate(0)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// share waits for a shared lock on f: as long as it is held, nobody can open the store for writing.
func share(ctx context.Context, f *os.File, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return fmt.Errorf("lock: %w", err)
		}
		select {
		case <-ctx.Done():
			return locked()
		case <-time.After(lockPause):
		}
	}
}

func locked() error {
	return fmt.Errorf("%w: is another fairlead running with this state_dir? "+
		"stop it (systemctl stop fairlead), or give this one its own [node] state_dir", ErrLocked)
}

// readOnly marks errors that say that the file may not be written.
func readOnly(err error) error {
	if errors.Is(err, unix.EROFS) || errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: make the file and its directory writable for fairlead, "+
			"or move [node] state_dir: %w", ErrReadOnly, err)
	}
	return err
}

// SetAside renames a damaged store to path.bad-<time> and returns that name. A store in use is ErrLocked.
func SetAside(path string) (moved string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("set store aside: %w", err)
	}
	defer f.Close()
	if err := share(context.Background(), f, lockPause); err != nil {
		return "", fmt.Errorf("set store %s aside: %w", path, err)
	}
	stamp := path + ".bad-" + time.Now().UTC().Format("20060102T150405Z")
	moved = stamp
	for n := 2; ; n++ {
		err = unix.Renameat2(unix.AT_FDCWD, path, unix.AT_FDCWD, moved, unix.RENAME_NOREPLACE)
		if !errors.Is(err, fs.ErrExist) {
			break
		}
		moved = fmt.Sprintf("%s.%d", stamp, n)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return "", fmt.Errorf("set store %s aside: %w", path, readOnly(full(err)))
	}
	return moved, nil
}
