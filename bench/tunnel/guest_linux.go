package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/fairlead-net/fairlead/nettest"
	"github.com/fairlead-net/fairlead/nettest/vm"
)

// guestLife is how long the machine may take for everything.
const guestLife = 20 * time.Minute

// method is what stands above the figures.
const method = `# What containers reach, against what their hosts reach

Two hosts on one cable for each way, a real daemon on each, a container on each. In each round every way is measured right
after its own hosts, and the ratio is within the round; the figures are medians of the rounds. The stream writes 128 KiB
at a time by TCP (reno); packets are UDP datagrams of 18 bytes, counted where they arrive; requests and responses are one
byte each, both ends on one processor. Processor time is that of the whole machine for a gigabyte of the stream.

A cable of the test is memory: on the faster one nothing but the processors limits a stream, so every instruction on the
path shows. The slower one is limited to the rate of a network card. Galaxy, the reference, publishes 0.94 for direct, 0.77
for IPIP and 0.67 for VXLAN, as streams between real machines: the slower cable is what to hold against that. To repeat:
make bench-tunnel.

`

// both puts the figures of this machine's kernel and those of a kernel in QEMU under one heading.
func both(s *nettest.Stage, here string) (string, error) {
	there, err := inGuest(s)
	if err != nil {
		return "", err
	}
	return method + "## This kernel\n\n" + here + "\n## A Debian kernel, emulated\n\n" +
		"Emulated instruction by instruction: only the ratios say something, and only among themselves.\n\n" + there, nil
}

// inGuest runs this program on a kernel that has all tunnels.
func inGuest(s *nettest.Stage) (string, error) {
	dir := nettest.NewDir(s, "")
	program := filepath.Join(dir, "bench")
	build := exec.Command("go", "build", "-o", program, "github.com/fairlead-net/fairlead/bench/tunnel")
	build.Env = append(build.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build bench: %w: %s", err, out)
	}
	files := map[string]string{"/fairlead/bench": program, "/fairlead/main": nettest.Binary(s, dir)}
	m := vm.NewImage(s, vm.Kernel(s), files).Boot(s, guestLife)
	ctx, cancel := context.WithTimeout(context.Background(), guestLife)
	defer cancel()
	var out strings.Builder
	// The queue that the machine's init lengthens would hold minutes of packets.
	code, err := m.Run(ctx, "echo 1000 >/proc/sys/net/core/netdev_max_backlog; SLOWNESS=6 BUILT=/fairlead/main /fairlead/bench -guest=false -out '' -rounds 5 -length 1s -cable 200mbit "+
		"-ways 'direct;ipip;gre;vxlan' 2>/tmp/said || cat /tmp/said", &out)
	if err != nil || code != 0 {
		return "", fmt.Errorf("run in the machine: exit code %d: %w: %s", code, err, &out)
	}
	return out.String(), nil
}
