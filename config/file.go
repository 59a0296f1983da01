package config

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// mostBytes bounds a config file. A thousand peers with comments are a tenth of it.
const mostBytes = 1 << 20

// dropInDir holds further files, beside the main one.
const dropInDir = "conf.d"

// slurp reads a regular file of at most limit bytes. A FIFO or a device is refused: reading one could take for ever.
func slurp(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, reason(err)
	}
	defer f.Close()
	if err := regular(f); err != nil {
		return nil, err
	}
	return readAll(f, limit)
}

func regular(f *os.File) error {
	info, err := f.Stat()
	switch {
	case err != nil:
		return reason(err)
	case info.IsDir():
		return errors.New("it is a directory")
	case !info.Mode().IsRegular():
		return errors.New("it is not a regular file")
	}
	return nil
}

func readAll(f *os.File, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, reason(err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("it is larger than %d bytes", limit)
	}
	return data, nil
}

// reason is an error without the path, which the position names already.
func reason(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}

// dropIns are the files of conf.d beside the main file, in the order of their names. Hidden files are an editor's.
func dropIns(main string) ([]string, string, error) {
	dir := filepath.Join(filepath.Dir(main), dropInDir)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, dir, nil
	}
	if err != nil {
		return nil, dir, reason(err)
	}
	var files []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".toml") && !strings.HasPrefix(e.Name(), ".") {
			files = append(files, filepath.Join(dir, e.Name()))
		}
	}
	return files, dir, nil
}

// readSecret reads a password: one line, in a file that only its owner, this user or root, can read.
//
// The file is judged after it was opened, so that it cannot be exchanged in between.
func readSecret(path string) (Secret, error) {
	const longest = 80 // TCP_MD5SIG_MAXKEYLEN of linux/tcp.h
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", reason(err)
	}
	defer f.Close()
	if err := cmp.Or(regular(f), private(f)); err != nil {
		return "", err
	}
	data, err := readAll(f, 4096)
	if err != nil {
		return "", err
	}
	word := strings.TrimRight(string(data), "\r\n")
	switch {
	case word == "":
		return "", errors.New("it is empty")
	case strings.ContainsAny(word, "\r\n\x00"):
		return "", errors.New("it has more than one line")
	case len(word) > longest:
		return "", fmt.Errorf("the password is longer than the %d bytes that TCP MD5 takes", longest)
	}
	return Secret(word), nil
}

// private refuses a file that somebody else can read or owns, and could open to others at any time.
func private(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if mode := st.Mode & 0o7777; mode&^0o600 != 0 {
		return fmt.Errorf("mode %04o is wider than 0600: chmod 0600 %s", mode, plain(f.Name()))
	}
	if st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("it belongs to user %d: chown root %s", st.Uid, plain(f.Name()))
	}
	return nil
}

// runnable refuses what is no program, and one that somebody but root or this user can change or replace.
func runnable(path string) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return err
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	for dir := filepath.Dir(real); ; dir = filepath.Dir(dir) {
		if err := guarded(dir); err != nil {
			return err
		}
		if dir == filepath.Dir(dir) {
			break
		}
	}
	mode := st.Mode & 0o7777
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return errors.New("it is a directory")
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return errors.New("it is not a regular file")
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return fmt.Errorf("it belongs to user %d: chown root %s", st.Uid, plain(path))
	case mode&0o022 != 0:
		return fmt.Errorf("mode %04o lets others write to it: chmod go-w %s", mode, plain(path))
	case mode&0o111 == 0:
		return fmt.Errorf("mode %04o does not let it be run: chmod +x %s", mode, plain(path))
	}
	return nil
}

// guarded refuses a directory in which others could put another file in the place of one. In one with the sticky bit, such
// as /tmp, they can not, as long as the file is not theirs.
func guarded(dir string) error {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return err
	}
	switch {
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return fmt.Errorf("its directory %s belongs to user %d: move it, or chown root %s", plain(dir), st.Uid, plain(dir))
	case st.Mode&0o022 != 0 && st.Mode&unix.S_ISVTX == 0:
		return fmt.Errorf("its directory %s lets others write to it: chmod go-w %s", plain(dir), plain(dir))
	}
	return nil
}
