// Package vm_test runs tests of other rooms on a kernel that has IPIP and GRE.
package vm_test

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/nettest/vm"
)

const (
	reach   = "^TestTheNetworkIsFlatUnderStrictAndLooseReversePathFilters$"
	restart = "^TestAllDaemonsMayBeKilledAtOnce$"
	drift   = "^TestWhateverIsDeletedByHandComesBack$"

	auto = "SLOWNESS=6 TUNNEL_MODE=auto TUNNEL_ACROSS=ipip"
	ipip = "SLOWNESS=6 TUNNEL_MODE=ipip TUNNEL_ACROSS=ipip"
	gre  = "SLOWNESS=6 TUNNEL_MODE=gre TUNNEL_ACROSS=gre"
)

// everything in the environment asks for the jobs, too, that a busy machine may be too slow for.
const everything = "VM_JOBS"

func jobs() []job {
	all := []job{
		{name: "rooms", room: "tunnel", tests: ".", limit: 8 * time.Minute},
		{name: "reachability, ipip", room: "nettest/story", tests: reach, env: ipip, limit: 6 * time.Minute},
		{name: "reachability, auto", room: "nettest/story", tests: reach, env: auto, limit: 6 * time.Minute},
		{name: "reachability, gre", room: "nettest/story", tests: reach, env: gre, limit: 6 * time.Minute},
		{name: "drift, ipip", room: "nettest/story", tests: drift, env: ipip, limit: 8 * time.Minute},
	}
	if os.Getenv(everything) != "all" {
		return all
	}
	return append(all,
		job{name: "drift, auto", room: "nettest/story", tests: drift, env: auto, limit: 8 * time.Minute},
		job{name: "restart, ipip", room: "nettest/story", tests: restart, env: ipip, limit: 8 * time.Minute},
		job{name: "restart, auto", room: "nettest/story", tests: restart, env: auto, limit: 8 * time.Minute},
	)
}

func TestOnAKernelWithAllTunnels(t *testing.T) {
	all := jobs()
	m := vm.NewImage(t, vm.Kernel(t), build(t, all)).Boot(t, 18*time.Minute)
	t.Run("machine", func(t *testing.T) { sane(t, m) })
	for _, j := range all {
		t.Run(j.name, func(t *testing.T) { j.run(t, m) })
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
