// Command scale measures how fast a node takes in the blocks of a thousand others.
//
// One feeder, a speaker of this project in a namespace of its own, announces them all to a real `fairlead run` process:
// half of the next hops on its link, half behind a router. The time runs from the moment the feeder hands over its
// announcements until the last route is in the kernel. `ip -batch` writing the same number of routes is the yardstick of
// the same run. Rounds are interleaved; medians are printed.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead-net/fairlead/bgp"
	"github.com/fairlead-net/fairlead/nettest"
)

const (
	blocks      = 1000
	mostMemory  = 64 << 10 // KiB of resident memory that the daemon may have
	perRoute    = 1.0      // writes
	feederWord  = "feed"
	daemonAddr  = "192.0.2.1"
	feederAddr  = "192.0.2.2"
	pollEvery   = 2 * time.Millisecond
	roundLimit  = time.Minute
	sessionTime = 30 * time.Second
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == feederWord {
		if err := feed(); err != nil {
			fmt.Fprintln(os.Stderr, "feeder:", err)
			os.Exit(1)
		}
		return
	}
	rounds := flag.Int("rounds", 5, "interleaved rounds")
	flag.Parse()
	err := nettest.OnStage("bench-scale", func(s *nettest.Stage) error { return measure(s, *rounds) })
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-scale:", err)
		os.Exit(1)
	}
}

// round is what one round measured.
type round struct {
	batch  time.Duration // ip -batch, the same routes
	taken  time.Duration // announced until all are in the kernel
	memory int           // KiB
	writes float64       // per route
}

func measure(s *nettest.Stage, rounds int) error {
	dir := nettest.NewDir(s, "")
	binary := nettest.Binary(s, dir)
	var all []round
	for i := range rounds {
		var r round
		err := s.Part(func() (err error) {
			r, err = one(s, binary, filepath.Join(dir, strconv.Itoa(i)))
			return err
		})
		if err != nil {
			return fmt.Errorf("round %d: %w", i+1, err)
		}
		fmt.Fprintf(os.Stderr, "round %d: %v to take in %d blocks, ip -batch %v\n", i+1, r.taken.Round(time.Millisecond), blocks, r.batch.Round(time.Millisecond))
		all = append(all, r)
	}
	report(all)
	return nil
}

func median[T any](all []round, of func(round) T, less func(a, b T) int) T {
	values := make([]T, 0, len(all))
	for _, r := range all {
		values = append(values, of(r))
	}
	slices.SortFunc(values, less)
	return values[len(values)/2]
}

func report(all []round) {
	duration := func(a, b time.Duration) int { return int(a - b) }
	taken := median(all, func(r round) time.Duration { return r.taken }, duration)
	batch := median(all, func(r round) time.Duration { return r.batch }, duration)
	memory := median(all, func(r round) int { return r.memory }, func(a, b int) int { return a - b })
	writes := median(all, func(r round) float64 { return r.writes }, func(a, b float64) int { return int((a - b) * 1000) })
	fmt.Printf("%d remote blocks from one feeder, medians of %d rounds\n\n", blocks, len(all))
	fmt.Println("| what | measured | to reach |")
	fmt.Println("| --- | --- | --- |")
	fmt.Printf("| announced until all in the kernel | %v (%.1f x ip -batch, %v) | |\n", taken.Round(time.Millisecond), float64(taken)/float64(batch), batch.Round(time.Millisecond))
	fmt.Printf("| resident memory of the daemon | %.1f MiB | <= 64 MiB: %s |\n", float64(memory)/1024, verdict(memory <= mostMemory))
	fmt.Printf("| kernel writes per route of ours, tunnel ends included | %.3f | 1: %s |\n", writes, verdict(writes <= perRoute))
}

func verdict(ok bool) string {
	if ok {
		return "reached"
	}
	return "missed"
}

// one builds two hosts, starts the daemon, and lets the feeder announce.
func one(t nettest.T, binary, dir string) (r round, err error) {
	node, peer := nettest.NewHost(t, "node"), nettest.NewHost(t, "feeder")
	nettest.Wire(t, node, "eth0", peer, "eth0")
	node.IP("addr add " + daemonAddr + "/24 dev eth0")
	node.IP("route add default via 192.0.2.254")
	peer.IP("addr add " + feederAddr + "/24 dev eth0")
	if r.batch, err = batch(node, dir); err != nil {
		return r, err
	}
	d := start(t, node, binary, dir)
	ctx, cancel := context.WithTimeout(context.Background(), roundLimit)
	defer cancel()
	exe, err := os.Executable()
	if err != nil {
		return r, err
	}
	f := peer.Command(ctx, exe, feederWord)
	hold, err := f.StdinPipe()
	if err != nil {
		return r, err
	}
	out, err := f.StdoutPipe()
	if err != nil {
		return r, err
	}
	if err := f.Start(); err != nil {
		return r, err
	}
	defer func() { _ = hold.Close(); _ = f.Wait() }()
	if _, err := out.Read(make([]byte, 64)); err != nil { // the session is up
		return r, fmt.Errorf("feeder: %w", err)
	}
	before, err := d.writes()
	if err != nil {
		return r, err
	}
	had := d.rows()
	begun := time.Now()
	if _, err := hold.Write([]byte("go\n")); err != nil {
		return r, err
	}
	if err := until(ctx, func() bool { return d.routes() == blocks }); err != nil {
		return r, fmt.Errorf("%d of %d routes: %w", d.routes(), blocks, err)
	}
	r.taken = time.Since(begun)
	if err := until(ctx, func() bool { return d.installed() == blocks }); err != nil {
		return r, err
	}
	after, err := d.writes()
	r.writes, r.memory = (after-before)/float64(d.rows()-had), d.memory()
	return r, err
}

func until(ctx context.Context, ok func() bool) error {
	for !ok() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pollEvery):
		}
	}
	return nil
}

// feed is the feeder: it opens a session, waits for a word, announces, and stays until its input ends.
func feed() error {
	addr := netip.MustParseAddr(feederAddr)
	s, err := bgp.Start(bgp.Config{
		ASN: 64512, RouterID: addr, Listen: addr, Port: 179, HoldTime: 90 * time.Second, RestartTime: time.Minute,
		MaxPrefixes: 10 * blocks,
		Peers:       []bgp.PeerConfig{{Address: netip.MustParseAddr(daemonAddr), Role: bgp.Mesh, ASN: 64512, HoldTime: 90 * time.Second, MaxPrefixes: 10 * blocks}},
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	if err := s.Announce(nil); err != nil {
		return err
	}
	deadline := time.Now().Add(sessionTime)
	for s.Peers()[0].State != "established" {
		if time.Now().After(deadline) {
			return errors.New("no session: " + s.Peers()[0].LastError)
		}
		time.Sleep(10 * time.Millisecond)
	}
	fmt.Println("up")
	buf := make([]byte, 16)
	if _, err := os.Stdin.Read(buf); err != nil {
		return nil
	}
	if err := s.Announce(announcements()); err != nil {
		return err
	}
	_, _ = os.Stdin.Read(buf) // until the bench lets go
	return nil
}

// announcements are /26 blocks, every second one behind the router.
func announcements() []bgp.Announcement {
	base := netip.MustParseAddr("10.88.4.0").As4()
	start := uint32(base[2])<<8 | uint32(base[3])
	all := make([]bgp.Announcement, 0, blocks)
	for i := range uint32(blocks) {
		n := start + i*64
		block := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 88, byte(n >> 8), byte(n)}), 26)
		nh := netip.AddrFrom4([4]byte{192, 0, 2, byte(3 + i/2%250)})
		if i%2 == 1 {
			nh = netip.AddrFrom4([4]byte{198, 51, 100, byte(1 + i/2%250)})
		}
		all = append(all, bgp.Announcement{Prefix: block, NextHop: nh, Encaps: bgp.VXLAN})
	}
	return all
}

// batch writes as many plain routes with iproute2 in one go and takes them out again.
func batch(h *nettest.Host, dir string) (time.Duration, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, err
	}
	var add, del bytes.Buffer
	for _, a := range announcements() {
		fmt.Fprintf(&add, "route add %s via %s dev eth0 proto 99 metric 88 src %s\n", a.Prefix, feederAddr, daemonAddr)
		fmt.Fprintf(&del, "route del %s proto 99 metric 88\n", a.Prefix)
	}
	adds, dels := filepath.Join(dir, "add"), filepath.Join(dir, "del")
	if err := errors.Join(os.WriteFile(adds, add.Bytes(), 0o600), os.WriteFile(dels, del.Bytes(), 0o600)); err != nil {
		return 0, err
	}
	begun := time.Now()
	if out, err := h.Try("ip", "-batch", adds); err != nil {
		return 0, fmt.Errorf("ip -batch: %w: %s", err, out)
	}
	took := time.Since(begun)
	if out, err := h.Try("ip", "-batch", dels); err != nil {
		return 0, fmt.Errorf("ip -batch: %w: %s", err, out)
	}
	return took, nil
}

func field(text, name string) string {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}
