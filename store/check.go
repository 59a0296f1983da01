package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"go.etcd.io/bbolt"
)

const (
	checkTimeout = time.Minute // far more than the largest sound file needs; damage can make bbolt go in circles
	checkOutput  = 4096        // of what the child says, the end that is kept
)

// examine finds out whether the existing file at path can be opened, without changing it.
func examine(ctx context.Context, path string, o Options) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%w: it is not a regular file", ErrCorrupt)
	}
	if info.Mode().Perm()&0o200 == 0 { // root could write it all the same, but somebody did not want that
		return readOnly(os.ErrPermission)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return readOnly(err)
	}
	defer f.Close()
	if err := share(ctx, f, o.Timeout); err != nil {
		return err
	}
	if info.Size() == 0 {
		return damaged(errors.New("it is empty"))
	}
	if len(o.Check) == 0 {
		return Verify(path)
	}
	return verifyApart(ctx, path, o.Check)
}

// verifyApart has a child process run Verify.
func verifyApart(ctx context.Context, path string, argv []string) error {
	limited, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	argv = append(slices.Clone(argv), path)
	child := exec.CommandContext(limited, argv[0], argv[1:]...)
	child.Env = append(os.Environ(), "GOTRACEBACK=none") // the last line is then the cause
	said := tail{}
	child.Stdout, child.Stderr = &said, &said
	err := child.Run()
	var died *exec.ExitError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("check: %w", ctx.Err())
	case errors.As(err, &died):
		if line := said.lastLine(); line != "" {
			return damaged(errors.New(line))
		}
		return damaged(died)
	}
	return fmt.Errorf("check by %s: %w", argv[0], err)
}

// damaged says that the store is, and what to do about it.
func damaged(why error) error {
	if errors.Is(why, ErrCorrupt) {
		return why
	}
	return fmt.Errorf("%w: %w (the file was not changed; to set it aside and rebuild the leases from what runs, "+
		"start once with: fairlead run --recover)", ErrCorrupt, why)
}

// tail keeps the end of what is written to it.
type tail struct{ buf []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - checkOutput; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

func (t *tail) lastLine() string {
	lines := strings.Split(strings.TrimSpace(string(t.buf)), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}

// Verify examines the store at path to its last byte and changes nothing. It is what the child of Options.Check runs:
// on a damaged file it can also panic, or die of SIGBUS, instead of returning.
func Verify(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("verify store: %w", err)
	}
	bolt, err := bbolt.Open(path, 0, &bbolt.Options{ReadOnly: true, Timeout: time.Second, PreLoadFreelist: true})
	if err != nil {
		return damaged(err)
	}
	err = bolt.View(func(tx *bbolt.Tx) error {
		if size := tx.Size(); size > info.Size() {
			return fmt.Errorf("it is cut off: %d bytes of %d", info.Size(), size)
		}
		var first error
		for err := range tx.Check() {
			if first == nil {
				first = err
			}
		}
		if first != nil {
			return first
		}
		return verifyValues(tx)
	})
	if err := errors.Join(err, bolt.Close()); err != nil {
		return damaged(err)
	}
	return nil
}

// verifyValues reads every value of every bucket.
func verifyValues(tx *bbolt.Tx) error {
	err := tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
		return b.ForEach(func(k, sealed []byte) error {
			data, err := unseal(string(k), sealed)
			if err == nil && !json.Valid(data) {
				err = errors.New("not JSON")
			}
			if err != nil {
				return fmt.Errorf("%s %q: %w", bytes.Clone(name), k, err)
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	_, found, err := metaNumbers().Get(&Tx{bolt: tx}, keySchema)
	if err == nil && !found {
		err = errors.New("it has no schema version")
	}
	return err
}
