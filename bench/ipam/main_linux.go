// Command ipam measures what a durable address costs.
//
// One caller and many of the ledger inside a process, a bare bbolt put of the same size, a request to the socket of a
// real `fairlead run` process, and the CNI plugin host-local, which forgets what it handed out when the power fails.
// All write to the same disk. They take turns, so that a disturbance hits all, and the median of the rounds counts.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	mostOfPut     = 1.5 // a lease of one caller against a bare put
	leastOfMany   = 6   // the rate of many callers against the rate of one
	leastOfSocket = 10  // host-local's time against a lease by the socket
	many          = 64  // callers
)

func main() {
	rounds := flag.Int("rounds", 15, "rounds; each way has its turn in each")
	dir := flag.String("dir", os.TempDir(), "where the stores are: a directory on a real disk")
	flag.Parse()
	if err := measure(*rounds, *dir); err != nil {
		fmt.Fprintln(os.Stderr, "bench-ipam:", err)
		os.Exit(1)
	}
}

// way is one way to lease addresses and to give them back. A round does some of both and returns how long one took; a
// way whose callers do both at once has no time for either, only for both together.
type way interface {
	round() (times, error)
}

// times are of one operation.
type times struct{ lease, release, both time.Duration }

// line is one way and what its rounds took.
type line struct {
	name   string
	way    way
	rounds []times
}

func measure(rounds int, dir string) (err error) {
	dir, err = os.MkdirTemp(dir, "fairlead-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	l := &lab{}
	defer l.end()
	defer func() {
		if v := recover(); v != nil {
			err = errors.Join(err, fmt.Errorf("lab: %v", v))
		}
	}()
	lines, err := newLines(l, dir)
	if err != nil {
		return err
	}
	for r := range rounds + 1 { // the first only warms up
		for i := range lines {
			line := &lines[(r+i)%len(lines)]
			took, err := line.way.round()
			if err != nil {
				return fmt.Errorf("%s: %w", line.name, err)
			}
			if r > 0 {
				line.rounds = append(line.rounds, took)
			}
		}
		fmt.Fprintf(os.Stderr, "round %d of %d\n", r, rounds)
	}
	return report(lines, dir)
}

func report(lines []line, dir string) error {
	fs, err := fileSystem(dir)
	if err != nil {
		return err
	}
	fmt.Printf("median of %d rounds, on %s\n\n", len(lines[0].rounds), fs)
	fmt.Println("| way | lease | release | operations a second |")
	fmt.Println("| --- | --- | --- | --- |")
	for _, l := range lines {
		fmt.Printf("| %s | %s | %s | %.0f |\n", l.name, us(l.median(leaseOf)), us(l.median(releaseOf)),
			float64(time.Second)/float64(l.median(bothOf)))
	}
	put, one, crowd, socket, cni := lines[0], lines[1], lines[2], lines[3], lines[4]
	fmt.Println("\n| ratio | measured | to reach |")
	fmt.Println("| --- | --- | --- |")
	most("lease, one caller, to a bare put", ratio(one.median(leaseOf), put.median(leaseOf)), mostOfPut)
	most("release, one caller, to a bare put", ratio(one.median(releaseOf), put.median(leaseOf)), mostOfPut)
	least(fmt.Sprintf("rate of %d callers to that of one", many), ratio(one.median(bothOf), crowd.median(bothOf)), leastOfMany)
	least("host-local's ADD to a lease by the socket", ratio(cni.median(leaseOf), socket.median(leaseOf)), leastOfSocket)
	least("host-local's DEL to a release by the socket", ratio(cni.median(releaseOf), socket.median(releaseOf)), leastOfSocket)
	return nil
}

func leaseOf(t times) time.Duration   { return t.lease }
func releaseOf(t times) time.Duration { return t.release }

func bothOf(t times) time.Duration {
	if t.both > 0 {
		return t.both
	}
	return (t.lease + t.release) / 2
}

func (l line) median(of func(times) time.Duration) time.Duration {
	all := make([]time.Duration, 0, len(l.rounds))
	for _, t := range l.rounds {
		all = append(all, of(t))
	}
	slices.Sort(all)
	return all[len(all)/2]
}

func ratio(a, b time.Duration) float64 { return float64(a) / float64(b) }

func most(name string, got, limit float64) {
	row(name, got, fmt.Sprintf("<= %.1f", limit), got <= limit)
}

func least(name string, got, limit float64) {
	row(name, got, fmt.Sprintf(">= %.0f", limit), got >= limit)
}

func row(name string, got float64, limit string, reached bool) {
	verdict := "missed"
	if reached {
		verdict = "reached"
	}
	fmt.Printf("| %s | %.2f | %s: %s |\n", name, got, limit, verdict)
}

func us(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return fmt.Sprintf("%d us", d.Microseconds())
}

// fileSystem names what the stores lie on: where a sync costs nothing, the figures say nothing.
func fileSystem(dir string) (string, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return "", fmt.Errorf("file system of %s: %w", dir, err)
	}
	names := map[int64]string{
		unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs",
		unix.OVERLAYFS_SUPER_MAGIC: "overlayfs", unix.TMPFS_MAGIC: "tmpfs, where a sync costs nothing: choose another -dir",
	}
	if name, ok := names[s.Type]; ok {
		return name, nil
	}
	return fmt.Sprintf("file system %#x", s.Type), nil
}
