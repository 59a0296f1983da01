// Command ipam measures what a durable address costs.
//
// One caller and many of the ledger inside a process, a bare bbolt put of the same size, a request to the socket of a
// real `fairlead run` process, and the CNI plugin host-local, which forgets what it handed out when the power fails.
// All write to the same disk. They take turns, so that a disturbance hits all, and the median of all operations counts.
package main

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/nettest"
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
	err := nettest.OnStage("bench-ipam", func(s *nettest.Stage) error { return measure(s, *rounds, *dir) })
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-ipam:", err)
		os.Exit(1)
	}
}

// way is one way to lease addresses and to give them back. A round does some of both and notes how long each took.
type way interface {
	round(t *times) error
}

// times are what the operations of one way took. Where many callers do both at once, only the share of one operation in
// the time of a whole round makes sense.
type times struct{ leases, releases, shares []time.Duration }

// line is one way and what it took.
type line struct {
	name string
	way  way
	times
}

func measure(t nettest.T, rounds int, parent string) error {
	dir := nettest.NewDir(t, parent)
	lines, err := newLines(t, dir)
	if err != nil {
		return err
	}
	for r := range rounds + 1 { // the first only warms up
		for i := range lines {
			line := &lines[(r+i)%len(lines)]
			if err := line.way.round(&line.times); err != nil {
				return fmt.Errorf("%s: %w", line.name, err)
			}
			if r == 0 {
				line.times = times{}
			}
		}
		fmt.Fprintf(os.Stderr, "round %d of %d\n", r, rounds)
	}
	return report(lines, rounds, dir)
}

func report(lines []line, rounds int, dir string) error {
	fs, err := fileSystem(dir)
	if err != nil {
		return err
	}
	fmt.Printf("medians of %d rounds, on %s\n\n", rounds, fs)
	fmt.Println("| way | lease | release | operations a second |")
	fmt.Println("| --- | --- | --- | --- |")
	for _, l := range lines {
		fmt.Printf("| %s | %s | %s | %.0f |\n", l.name, us(median(l.leases)), us(median(l.releases)), l.rate())
	}
	put, one, crowd, socket, cni := lines[0], lines[1], lines[2], lines[3], lines[4]
	fmt.Println("\n| ratio | measured | to reach |")
	fmt.Println("| --- | --- | --- |")
	most("lease, one caller, to a bare put", ratio(one.leases, put.leases), mostOfPut)
	most("release, one caller, to a bare put", ratio(one.releases, put.leases), mostOfPut)
	least(fmt.Sprintf("rate of %d callers to that of one", many), crowd.rate()/one.rate(), leastOfMany)
	least("host-local's ADD to a lease by the socket", ratio(cni.leases, socket.leases), leastOfSocket)
	least("host-local's DEL to a release by the socket", ratio(cni.releases, socket.releases), leastOfSocket)
	return nil
}

// rate is in operations a second.
func (t times) rate() float64 {
	one := median(t.shares)
	if one == 0 {
		one = (median(t.leases) + median(t.releases)) / 2
	}
	return float64(time.Second) / float64(one)
}

func median(d []time.Duration) time.Duration {
	if len(d) == 0 {
		return 0
	}
	return slices.Sorted(slices.Values(d))[len(d)/2]
}

func ratio(a, b []time.Duration) float64 { return float64(median(a)) / float64(median(b)) }

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
