package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"runtime/metrics"
	"slices"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
)

const (
	checkTimeout = time.Minute // far more than the largest sound file needs; damage can make bbolt go in circles
	checkCircles = 4           // a check that ran for more than its time over this did not wait for the disk
	checkOutput  = 64 << 10    // of what the child says, the bytes that are kept
	checkMemory  = 128 << 20   // bytes beside the size of the file; damage can make bbolt ask for ever more
	checkPause   = 20 * time.Millisecond
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
	if len(o.Check) > 0 {
		return verifyApart(ctx, path, o.Check, checkTimeout)
	}
	if err := Verify(path); err != nil {
		return damaged(err)
	}
	return nil
}

// verifyApart has a child process run Verify. What keeps the child from an answer is no finding: ErrCorrupt would have
// `run --recover` set a sound file aside.
func verifyApart(ctx context.Context, path string, argv []string, limit time.Duration) error {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	argv = append(slices.Clone(argv), path)
	child := exec.CommandContext(limited, argv[0], argv[1:]...)
	said := head{}
	child.Stdout, child.Stderr = &said, &said
	err := child.Run()
	var died *exec.ExitError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("check: %w", ctx.Err())
	case errors.As(err, &died) && byDamage(died):
		if line := cause(string(said)); line != "" {
			return damaged(errors.New(line))
		}
		return damaged(died)
	case limited.Err() != nil && died != nil && died.UserTime() > limit/checkCircles:
		return damaged(fmt.Errorf("its examination went in circles for %s", limit))
	case limited.Err() != nil:
		return unchecked(fmt.Errorf("it did not end within %s", limit))
	case died != nil:
		return unchecked(fmt.Errorf("it was ended from outside: %w", died))
	}
	return fmt.Errorf("check by %s: %w", argv[0], err)
}

// byDamage tells a child that ended by what is in the file, a panic included, from one that something else ended: the
// OOM killer, an operator, our own limit.
func byDamage(died *exec.ExitError) bool {
	status, ok := died.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() {
		return true
	}
	switch status.Signal() {
	case syscall.SIGBUS, syscall.SIGSEGV, syscall.SIGABRT: // the last is a panic under GOTRACEBACK=crash
		return true
	}
	return false
}

// unchecked says that nobody knows whether the store is damaged, and what to do about it.
func unchecked(why error) error {
	return fmt.Errorf("its check could not be made: %w (the file was not changed; try again)", why)
}

// damaged says that the store is, and what to do about it.
func damaged(why error) error {
	return fmt.Errorf("%w: %w (the file was not changed; to set it aside and rebuild the leases from what runs, "+
		"start once with: fairlead run --recover)", ErrCorrupt, why)
}

// head keeps the beginning of what is written to it.
type head []byte

func (h *head) Write(p []byte) (int, error) {
	*h = append(*h, p[:min(len(p), checkOutput-len(*h))]...)
	return len(p), nil
}

// cause is the line that says why a child died: the first one of a crash of Go, or else the last one.
func cause(said string) string {
	lines := strings.Split(strings.TrimSpace(said), "\n")
	for _, line := range lines {
		for _, crash := range []string{"panic: ", "unexpected fault address ", "fatal error: "} {
			if strings.HasPrefix(line, crash) {
				return line
			}
		}
	}
	return strings.TrimSpace(lines[len(lines)-1])
}

// Verify examines the store at path to its last byte and changes nothing. It is what the child of Options.Check runs:
// on a damaged file it can also panic, or die of SIGBUS, instead of returning.
func Verify(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("verify store: %w", err)
	}
	bolt, err := bbolt.Open(path, 0, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return fmt.Errorf("verify store: %w", err)
	}
	err = bolt.View(func(tx *bbolt.Tx) error {
		// First, since a page beyond the end of the file can not even be looked at.
		if size := tx.Size(); size > info.Size() {
			return fmt.Errorf("cut off: it has %d bytes of %d", info.Size(), size)
		}
		if err := firstOf(tx.Check(), uint64(checkMemory+info.Size())); err != nil {
			return err
		}
		return verifyValues(tx)
	})
	if err := errors.Join(err, bolt.Close()); err != nil {
		return fmt.Errorf("verify store: %w", err)
	}
	return nil
}

// firstOf waits until the check is over and returns its first finding.
//
// It panics when the check takes more memory than that: one wrong bit in the head of a page makes bbolt track billions
// of pages, and there is no other way to stop it.
func firstOf(findings <-chan error, memory uint64) error {
	tick := time.NewTicker(checkPause)
	defer tick.Stop()
	var first error
	for {
		select {
		case err, more := <-findings:
			if !more {
				return first
			}
			if first == nil {
				first = err
			}
		case <-tick.C:
			if memoryInUse() > memory {
				panic(fmt.Sprintf("its pages claim to be so many that listing them takes more than %d bytes", memory))
			}
		}
	}
}

func memoryInUse() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64() - s[1].Value.Uint64()
}

// verifyValues reads every value of every bucket, and misses those that should be there.
func verifyValues(bolt *bbolt.Tx) error {
	tx := &Tx{bolt: bolt}
	_, noSchema := must(tx, metaNumber(), keySchema)
	_, noRevision := must(tx, metaNumber(), keyRevision)
	_, noNode := must(tx, metaNode(), keyNode)
	want, err := must(tx, metaTally(), keyTally)
	if err := errors.Join(noSchema, noRevision, noNode, err); err != nil {
		return err
	}
	have := make(map[string]tally)
	err = bolt.ForEach(func(name []byte, b *bbolt.Bucket) error {
		bucket := string(name)
		have[bucket] = tally{}
		return b.ForEach(func(k, sealed []byte) error {
			data, err := unseal(string(k), sealed)
			if err == nil && !json.Valid(data) {
				err = errors.New("not JSON")
			}
			if err != nil {
				return fmt.Errorf("%s %q: %w", bucket, k, err)
			}
			have[bucket] = have[bucket].with(sealed)
			return nil
		})
	})
	if err != nil {
		return err
	}
	delete(have, metaName)
	if !maps.Equal(have, want) {
		return fmt.Errorf("values are missing: it has %v, and should have %v", have, want)
	}
	return nil
}
