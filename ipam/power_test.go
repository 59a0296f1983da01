package ipam_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// sector is what a disk writes whole or not at all, in bytes.
const sector = 512

// event is one thing that a life did to its file, or said.
type event struct {
	data   []byte // written at offset; nil: a sync, or an answer
	offset int
	answer bool
}

// TestPowerFailureLosesNoAnswer writes down what a life writes to its file, and when it syncs. After a power failure the
// disk has all that was written before the last sync that ended, and of the rest any sectors at all: many such disks are
// made up for each point of the life. What was answered must be there, and the file must be sound.
func TestPowerFailureLosesNoAnswer(t *testing.T) {
	if plain(t) {
		return
	}
	strace := straceOf(t)
	lives, disks := 4, 6
	if testing.Short() {
		lives, disks = 1, 2
	}
	seed := rand.Uint64N(1 << 32)
	t.Logf("seeds from %d", seed)
	tried := 0
	for i := range lives {
		tried += failPower(t, strace, seed+uint64(i), disks)
	}
	t.Logf("%d power failures", tried)
}

func failPower(t *testing.T, strace string, seed uint64, disks int) (tried int) {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "fairlead-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "fairlead.db")
	c, err := undisturbed(filepath.Join(dir, "undisturbed.db"), seed)
	if err != nil {
		t.Fatal(err)
	}
	db, _, err := begin(path, seed) // the file is made: what follows is its life
	if err == nil {
		err = db.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	disk, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	events := recorded(t, strace, path, seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	var loose []event // written since the last sync
	answers := 0
	for i, e := range events {
		switch {
		case e.answer:
			answers++
		case e.data == nil:
			for _, w := range loose {
				copy(disk[w.offset:], w.data)
			}
			loose = nil
		default:
			loose = append(loose, e)
		}
		for n := range disks {
			tried++
			if err := os.WriteFile(path, surviving(disk, loose, n, rng), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := c.resume(path, seed, answers); err != nil {
				t.Fatalf("seed %d, power failed after event %d of %d, disk %d: %v", seed, i, len(events), n, err)
			}
		}
	}
	return tried
}

// surviving is a disk after a power failure: the loose writes reached it in full, or not at all, or by some sectors.
func surviving(disk []byte, loose []event, n int, rng *rand.Rand) []byte {
	left := bytes.Clone(disk)
	for _, w := range loose {
		for at := 0; at < len(w.data); at += sector {
			if n == 0 || n > 1 && rng.IntN(n) == 0 {
				copy(left[w.offset+at:], w.data[at:min(at+sector, len(w.data))])
			}
		}
	}
	return left
}

// recorded lives a life under strace and returns what it did. The last answer must be the last event: what comes after
// it is the end of the process.
func recorded(t *testing.T, strace, path string, seed uint64) (events []event) {
	t.Helper()
	log := path + ".strace"
	out, err := exec.CommandContext(t.Context(), strace, "-f", "-qq", "-xx", "-s", "1000000", "-o", log, "-e", "signal=none",
		"-e", "trace=pwrite64,fdatasync,fsync,write", os.Args[0], childLife, path, strconv.FormatUint(seed, 10)).CombinedOutput()
	if err != nil {
		t.Fatalf("strace: %v: %s", err, out)
	}
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	var (
		written = regexp.MustCompile(`^\d+ +pwrite64\(\d+, "([^"]*)", \d+, (\d+)`)
		synced  = regexp.MustCompile(`^\d+ +(?:(?:fdatasync|fsync)\(\d+|<\.\.\. (?:fdatasync|fsync) resumed>)\) += 0`)
		said    = regexp.MustCompile(`^\d+ +write\(1, `)
	)
	syncs, answers := 0, 0
	for line := range strings.Lines(string(text)) {
		switch {
		case said.MatchString(line):
			answers++
			events = append(events, event{answer: true})
		case synced.MatchString(line):
			syncs++
			events = append(events, event{})
		default:
			if m := written.FindStringSubmatch(line); m != nil {
				events = append(events, writeOf(t, m[1], m[2]))
			}
		}
	}
	// How many steps of a life reach the disk is chance; that each sync has something to sync is not.
	if writes := len(events) - answers - syncs; answers != lifeSteps || syncs < lifeSteps/2 || writes < syncs {
		t.Fatalf("%d events with %d answers and %d syncs in a life of %d steps", len(events), answers, syncs, lifeSteps)
	}
	return events
}

func writeOf(t *testing.T, hexed, offset string) event {
	t.Helper()
	data, err := hex.DecodeString(strings.ReplaceAll(hexed, `\x`, ""))
	if err != nil {
		t.Fatal(err)
	}
	at, err := strconv.Atoi(offset)
	if err != nil {
		t.Fatal(fmt.Errorf("offset: %w", err))
	}
	return event{data: data, offset: at}
}
