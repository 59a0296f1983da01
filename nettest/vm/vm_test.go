// Package vm_test runs tests of other rooms on a kernel that has IPIP, GRE and SCTP, and that is older: without tcx, and
// with fewer words for programs.
package vm_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/nettest/vm"
)

const (
	reach   = "^TestTheNetworkIsFlatUnderStrictAndLooseReversePathFilters$"
	restart = "^(TestKillingAndRestartingDaemonsLosesNoPacketAndFlapsNoRoute|TestAllDaemonsMayBeKilledAtOnce)$"
	drift   = "^TestWhateverIsDeletedByHandComesBack$"
	sizes   = "^TestANarrowLinkInTheMidstIsNoBlackHole$"
	sctp    = "^TestSCTPPortsAreReachedAndHeld$"
	guard   = "^TestStrangersDoNotGetIntoTheTunnels$/^(while|unless|until)" // what others change is the same with every tunnel

	fast   = "^TestTheFastPathDoesWhatThisKernelCan$"
	mapped = "^TestPortsByTheFastPath$"
	// That the programs load, what they do with packets, and how they are put at links. What tries thousands of packets or
	// kills fifty daemons is for a kernel that is not emulated.
	programs = "^Test(VerdictsByHand|EachHopOfEachKind|HeadersInParts|SegmentsToBeCut|Congestion|RefusedWrapperIsNothingElse|SumsOfCardsStayRight|" +
		"BothWaysTheSame|WhatTheKernelTranslatesStaysWithIt|HooksAreFilledReplacedAndEmptied|NextDaemonAdopts|WhatOthersHaveAtAHookStays|" +
		"FaultsAreSeenAndMended|ALinkIsPavedBeforeItsPrograms|UsableSaysWhatIsMissing|TrialAgreesWithTheKernel|MapsWithoutBatches|TablesHoldWhatIsPut)$"

	// Auto is with the fast path, and the others are the kernel's own devices, which it would leave without work.
	auto = "TUNNEL_MODE=auto TUNNEL_ACROSS=ipip SLOWNESS=6"
	ipip = "TUNNEL_MODE=ipip TUNNEL_ACROSS=ipip FASTPATH=off SLOWNESS=6"
	gre  = "TUNNEL_MODE=gre TUNNEL_ACROSS=gre FASTPATH=off SLOWNESS=6"
	// A probe's packet that is there and back takes 1 to 2 ms: with 40 a second of each the daemons have time left.
	autoProbed = "TUNNEL_MODE=auto TUNNEL_ACROSS=ipip SLOWNESS=25"
	ipipProbed = "TUNNEL_MODE=ipip TUNNEL_ACROSS=ipip FASTPATH=off SLOWNESS=25"
)

// machines are what runs at the same time: each has one processor, and about half of the work.
var machines = []struct {
	name string
	jobs []job
	end  func(*testing.T, *vm.Machine) // what ends the machine shows that its end is told
}{
	{"rooms", []job{
		{name: "fast path", room: "fastpath", tests: programs, limit: 3 * time.Minute},
		{name: "fast path, auto", room: "nettest/story", tests: fast, env: auto, limit: 4 * time.Minute},
		{name: "fast path, ports", room: "nettest/story", tests: mapped, env: auto, limit: 4 * time.Minute},
		{name: "tunnel", room: "tunnel", tests: ".", limit: 8 * time.Minute},
		{name: "drift, ipip", room: "nettest/story", tests: drift, env: ipip, limit: 8 * time.Minute},
		{name: "drift, auto", room: "nettest/story", tests: drift, env: auto, limit: 8 * time.Minute},
		{name: "sizes, auto", room: "nettest/story", tests: sizes, env: auto, limit: 4 * time.Minute},
		{name: "guard, auto", room: "nettest/story", tests: guard, env: auto, limit: 6 * time.Minute},
		{name: "held ports of SCTP", room: "nat", tests: "SCTP", limit: 3 * time.Minute},
	}, panics},
	{"stories", []job{
		{name: "reachability, ipip", room: "nettest/story", tests: reach, env: ipip, limit: 6 * time.Minute},
		{name: "reachability, auto", room: "nettest/story", tests: reach, env: auto, limit: 6 * time.Minute},
		{name: "reachability, gre", room: "nettest/story", tests: reach, env: gre, limit: 6 * time.Minute},
		{name: "ports of SCTP", room: "nettest/story", tests: sctp, env: auto, limit: 4 * time.Minute},
		{name: "sizes, gre", room: "nettest/story", tests: sizes, env: gre, limit: 4 * time.Minute},
		{name: "restart, ipip", room: "nettest/story", tests: restart, env: ipipProbed, limit: 8 * time.Minute},
		{name: "restart, auto", room: "nettest/story", tests: restart, env: autoProbed, limit: 8 * time.Minute},
	}, hangs},
}

func TestOnAKernelWithAllTunnels(t *testing.T) {
	var all []job
	for _, m := range machines {
		all = append(all, m.jobs...)
	}
	image := vm.NewImage(t, vm.Kernel(t), build(t, all))
	image.Processors = 1
	for _, m := range machines {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			machine := image.Boot(t, 18*time.Minute)
			t.Run("machine", func(t *testing.T) { sane(t, machine) })
			for _, j := range m.jobs {
				t.Run(j.name, func(t *testing.T) { j.run(t, machine) })
			}
			t.Run("end", func(t *testing.T) { m.end(t, machine) })
		})
	}
}

// panics holds a machine whose kernel panics to an end that says so.
func panics(t *testing.T, m *vm.Machine) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := m.Run(ctx, "echo c > /proc/sysrq-trigger", io.Discard)
	if err == nil || !strings.Contains(err.Error(), "Kernel panic - not syncing: sysrq triggered crash") {
		t.Error(err)
	}
}

// hangs holds a machine that does not answer to an end in time.
func hangs(t *testing.T, m *vm.Machine) {
	const patience = 2 * time.Second
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	begun := time.Now()
	if _, err := m.Run(ctx, "sleep 600", io.Discard); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if took := time.Since(begun); took > 5*patience {
		t.Errorf("it took %v, not %v", took, patience)
	}
	if _, err := m.Run(t.Context(), "true", io.Discard); err == nil {
		t.Error("the machine still runs")
	}
}

// sane holds the machine to what the tests in it take for granted.
func sane(t *testing.T, m *vm.Machine) {
	if out := run(t, m, "ip -Version"); !strings.Contains(out, "iproute2") {
		t.Errorf("its ip is not iproute2's: %s", out)
	}
	t.Run("modules come when they are asked for", func(t *testing.T) {
		for _, command := range []string{
			"ip link add t1 type ipip external", "ip link add t2 type gretap external", "ip link add t3 type vxlan external",
			"ip link add t4 type veth", "ip link add t5 type bridge",
			"tc qdisc add dev t4 root netem delay 1ms", "tc qdisc add dev t4 clsact",
			"ipset create t6 hash:ip", "iptables -w -A INPUT -m set --match-set t6 src -m u32 --u32 '0=0' -j DROP",
			"iptables -w -A INPUT -p ipencap -j DROP", "ip6tables -w -A INPUT -m conntrack --ctstate NEW -j ACCEPT",
			"iptables-legacy -w -A INPUT -m bpf --bytecode '1,6 0 0 0,' -j DROP",
			"iptables -w -A INPUT -p sctp -m sctp --dport 7 -j DROP", "modprobe sctp && grep -q ^SCTP /proc/net/protocols",
		} {
			run(t, m, command)
		}
		run(t, m, "iptables -F; iptables-legacy -F; ip6tables -F; ipset destroy; for i in 1 2 3 4 5; do ip link del t$i; done")
	})
	t.Run("its clock goes as ours does", func(t *testing.T) {
		const rest = 5 * time.Second
		begun := time.Now()
		run(t, m, "sleep 5")
		if took := time.Since(begun); took < rest*98/100 || took > rest*130/100 { // a busy machine is late
			t.Errorf("%v inside are %v outside", rest, took)
		}
	})
}

// run runs a short command, which must succeed.
func run(t *testing.T, m *vm.Machine, command string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out strings.Builder
	code, err := m.Run(ctx, command, &out)
	check(t, err)
	if code != 0 {
		t.Fatalf("%s: exit code %d: %s", command, code, &out)
	}
	return out.String()
}
