package nat_test

import (
	"context"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/nat"
	"github.com/fairlead-net/fairlead/nettest"
	"github.com/fairlead-net/fairlead/reconcile"
)

// changing is a table that tells of changes.
type changing interface{ Changed() <-chan struct{} }

func heard(c changing) bool {
	select {
	case <-c.Changed():
		return true
	case <-time.After(nettest.Patience(3 * time.Second)):
		return false
	}
}

// quiet waits until there has been no poke for a while that is longer than any of our own takes to be heard of, and returns
// how many there were before.
func quiet(c changing) (n int) {
	for {
		select {
		case <-c.Changed():
			n++
		case <-time.After(400 * time.Millisecond):
			return n
		}
	}
}

// translations are the rules of the table nat of both families.
func (h host) translations() string {
	return strings.Join(slices.Concat(h.saved("iptables"), h.saved("ip6tables")), "\n")
}

// TestMappingsAreMended: whatever somebody does to our rules is told, and the next pass makes it good.
func TestMappingsAreMended(t *testing.T) {
	backends(t, func(t *testing.T, h host) {
		p := publish(t, h, few())
		before := h.translations()
		const leaf = "FAIRLEAD-DNAT-t8064-8095"
		hands := []string{
			"iptables -t nat -F", "ip6tables -t nat -F OUTPUT", "iptables -t nat -D " + leaf + " 1", "iptables -t nat -N FAIRLEAD-DNAT-x",
		}
		if strings.Contains(h.iptables("--version"), "nf_tables") { // which tells at once
			hands = append(hands,
				"ip6tables -t nat -F", "iptables -t nat -F FAIRLEAD-DNAT", "iptables -t nat -F "+leaf,
				"iptables -t nat -I "+leaf+" -j ACCEPT", "iptables -t nat -A "+leaf+" -p tcp", "iptables -t nat -D PREROUTING 1",
				"iptables -t nat -A OUTPUT -j FAIRLEAD-DNAT", "iptables -t nat -A OUTPUT -m addrtype --dst-type LOCAL -j FAIRLEAD-DNAT",
				"nft delete table ip nat", "nft flush ruleset",
				"iptables -t nat -R "+leaf+" 1 -p tcp --dport 8080 -j DNAT --to-destination 10.88.0.7:80",
				"nft insert rule ip nat "+leaf+" ip saddr {192.0.2.66,192.0.2.67} accept")
		}
		for _, hand := range hands {
			h.Run(strings.Fields(hand)...)
			if !heard(p.ports) {
				t.Errorf("no poke for %s", hand)
			}
			if r := settle(t, p.table, few()); r.Total() == 0 {
				t.Errorf("nothing written after %s", hand)
			}
			if diff := cmp.Diff(before, unordered(before, h.translations())); diff != "" {
				t.Fatalf("not as before after %s:\n%s", hand, diff)
			}
			select {
			case <-p.ports.Changed():
			default:
			}
		}
		if n := quiet(p.ports); n != 0 {
			t.Errorf("%d pokes for what we did ourselves", n)
		}
	})
}

// TestAllRulesReplacedByOthers: what firewalld does when it is reloaded, and the like, with a thousand mappings.
func TestAllRulesReplacedByOthers(t *testing.T) {
	backends(t, func(t *testing.T, h host) {
		want := row(1000)
		p := publish(t, h, want)
		before := h.translations()
		hands := []string{"iptables-restore", "iptables -t nat -F"}
		if strings.Contains(h.iptables("--version"), "nf_tables") {
			hands = []string{"iptables-nft-restore", "iptables -t nat -F", "nft flush ruleset"}
		} else {
			hands[0] = "iptables-legacy-restore"
		}
		for _, hand := range hands {
			begun := time.Now()
			if strings.HasSuffix(hand, "restore") {
				h.Run("sh", "-c", "printf '*nat\\n:PREROUTING ACCEPT\\n:INPUT ACCEPT\\n:OUTPUT ACCEPT\\n:POSTROUTING ACCEPT\\nCOMMIT\\n' | "+hand)
			} else {
				h.Run(strings.Fields(hand)...)
			}
			if !heard(p.ports) {
				t.Errorf("no poke for %s", hand)
			}
			told := time.Since(begun)
			if r := reconcile.Climb(t.Context(), p.table.Rung(want, nil)); !r.Clean() || r.Repaired != len(want) {
				t.Errorf("%s: repaired %d: %v", hand, r.Repaired, r.Err())
			}
			t.Logf("%s: told after %v, mended after %v", hand, told, time.Since(begun))
			if after := h.translations(); after != before {
				t.Fatalf("not as before after %s:\n%s", hand, cmp.Diff(before, after))
			}
			select {
			case <-p.ports.Changed():
			default:
			}
		}
	})
}

// TestTwoWriters: what one keeps in mind is not believed any more when another wrote, and not when it is written at once.
func TestTwoWriters(t *testing.T) {
	backends(t, func(t *testing.T, h host) {
		a, b := publish(t, h, few()), publish(t, host{h.Host, open(t, h.Host)}, few())
		want := few()
		for i, one := range []published{a, b, a, a, b} {
			extra := mapped("udp", "0.0.0.0", uint16(5000+i))
			want[extra] = nat.Rule{To: to("10.88.0.2:53")}
			// Others write at the same time, in chains that are not ours.
			done := make(chan struct{})
			go func() {
				defer close(done)
				for range 5 {
					_, _ = h.Try("iptables", "-w", "5", "-t", "nat", "-A", "POSTROUTING", "-p", "udp", "-j", "RETURN")
				}
			}()
			if !strings.Contains(h.iptables("--version"), "nf_tables") { // of a rule in the place of another nobody tells there
				ports := one.k.Ports(0)
				one = published{one.host, ports, reconcile.NewTable("ports", ports)}
			}
			settle(t, one.table, want)
			<-done
			have, err := h.k.Ports(0).List(t.Context())
			must(t, err)
			if diff := cmp.Diff(want, have, addresses()); diff != "" {
				t.Fatalf("change %d (-want +have)\n%s", i, diff)
			}
		}
	})
}

// TestRulesOfOthersAreNoNewsOfMappings: Docker writes into the same table.
func TestRulesOfOthersAreNoNewsOfMappings(t *testing.T) {
	use(t, "nft")
	p := publish(t, newHost(t), few())
	quiet(p.ports)
	for _, hand := range []string{
		"iptables -t nat -N DOCKER", "iptables -t nat -A DOCKER -p tcp --dport 80 -j DNAT --to-destination 172.17.0.2:80",
		"iptables -t nat -A POSTROUTING -s 172.17.0.0/16 -j MASQUERADE", "iptables -A FORWARD -j DROP", "nft add table inet fw",
	} {
		p.Run(strings.Fields(hand)...)
	}
	if n := quiet(p.ports); n != 0 {
		t.Errorf("%d pokes", n)
	}
	p.iptables("-t nat -I PREROUTING -m addrtype --dst-type LOCAL -j DOCKER") // before ours, which is no fault
	if r := settle(t, p.table, few()); r.Total() != 0 {
		t.Errorf("wrote %v", r.Writes)
	}
}

// TestMappingsInATableThatCanNotBePrinted: one rule that only nft can write makes iptables-save print nothing at all.
func TestMappingsInATableThatCanNotBePrinted(t *testing.T) {
	use(t, "nft")
	h := newHost(t)
	for _, hook := range []string{"PREROUTING", "OUTPUT"} {
		h.iptables("-t nat -A " + hook + " -p tcp --dport 22 -j ACCEPT")
		h.ip6tables("-t nat -A " + hook + " -p tcp --dport 22 -j ACCEPT")
		h.Run("nft", "add rule ip nat "+hook+" ct state vmap { established : accept }")
	}
	foreign := h.hooks()
	p := publish(t, h, few())
	inOrder := h.hooks()
	// What can be seen is mended, also a rule in our own chain that can not be printed.
	for _, hand := range []string{
		"iptables -t nat -F FAIRLEAD-DNAT", "iptables -t nat -D OUTPUT -m addrtype --dst-type LOCAL -j FAIRLEAD-DNAT",
		"nft insert rule ip nat FAIRLEAD-DNAT-t ct state vmap { established : accept }", "nft add rule ip nat FAIRLEAD-DNAT ct state vmap { established : accept }",
	} {
		select {
		case <-p.ports.Changed():
		default:
		}
		h.Run(strings.Fields(hand)...)
		if !heard(p.ports) {
			t.Errorf("no poke for %s", hand)
		}
		if r := settle(t, p.table, few()); r.Total() == 0 {
			t.Errorf("nothing written after %s", hand)
		}
		if diff := cmp.Diff(slices.Sorted(strings.Lines(inOrder)), slices.Sorted(strings.Lines(h.hooks()))); diff != "" {
			t.Fatalf("not as before after %s:\n%s", hand, diff)
		}
	}
	// However often it is entered: all of it goes in the end.
	h.iptables("-t nat -A OUTPUT -m addrtype --dst-type LOCAL -j FAIRLEAD-DNAT")
	settle(t, p.table, noMapping())
	if diff := cmp.Diff(foreign, h.hooks()); diff != "" {
		t.Errorf("not as before:\n%s", diff)
	}
}

func TestMappingsFollowTheBackend(t *testing.T) {
	for _, way := range [][2]string{{"nft", "legacy"}, {"legacy", "nft"}} {
		t.Run(way[0]+" to "+way[1], func(t *testing.T) {
			for _, b := range way {
				if _, err := exec.LookPath("iptables-" + b); err != nil {
					t.Skipf("one back end only: %v", err)
				}
			}
			use(t, way[0])
			h := newHost(t)
			p := publish(t, h, few())
			section := h.k.Forward(0)
			forward := reconcile.NewTable("forward", section)
			settle(t, forward, passing())
			use(t, way[1])
			// The daemon that runs learns of it when it reads next; if it writes before that, it writes nothing.
			want := few()
			extra := mapped("udp", "0.0.0.0", 5353)
			want[extra] = nat.Rule{To: to("10.88.0.2:53")}
			before := h.world()
			if err := p.ports.Put(t.Context(), extra, want[extra]); err == nil || !strings.Contains(err.Error(), "another back end") {
				t.Errorf("error: %v", err)
			}
			if diff := cmp.Diff(before, h.world()); diff != "" {
				t.Errorf("written:\n%s", diff)
			}
			settle(t, p.table, want)
			settle(t, forward, passing())
			for _, tool := range []string{"iptables-", "ip6tables-"} {
				if out := h.Run(tool+way[0]+"-save") + h.Run(tool+way[0]+"-save", "-t", "nat"); strings.Contains(out, "FAIRLEAD") {
					t.Errorf("in %s%s there is still\n%s", tool, way[0], out)
				}
			}
			if r := settle(t, reconcile.NewTable("ports", h.k.Ports(0)), want); r.Total() != 0 {
				t.Errorf("wrote %v", r.Writes)
			}
			settle(t, reconcile.NewTable("ports", h.k.Ports(0)), noMapping())
			settle(t, forward, none())
			if out := h.world(); strings.Contains(out, "FAIRLEAD") {
				t.Errorf("there is still\n%s", out)
			}
		})
	}
}

func TestMappingsOnAHostWithoutIPTables(t *testing.T) {
	h := newHost(t)
	t.Setenv("PATH", t.TempDir())
	for _, table := range []reconcile.Target[nat.EntryKey, nat.Entry]{h.k.Outgoing(time.Hour), h.k.Forward(time.Hour)} {
		settle(t, reconcile.NewTable("section", table), none())
		err := table.Put(t.Context(), nat.EntryKey{Name: "x", Family: 4}, nat.EntryOf("-j RETURN"))
		if !errors.Is(err, exec.ErrNotFound) || !strings.HasSuffix(err.Error(), "apt-get install iptables") {
			t.Errorf("error: %v", err)
		}
	}
	ports := h.k.Ports(time.Hour)
	settle(t, reconcile.NewTable("ports", ports), noMapping())
	must(t, ports.Delete(t.Context(), mapped("tcp", "0.0.0.0", 80)))
	failed := ports.Apply(t.Context(), few(), nil)
	if len(failed) != len(few()) {
		t.Errorf("failed %v", failed)
	}
	for _, err := range failed {
		if !errors.Is(err, exec.ErrNotFound) || !strings.HasSuffix(err.Error(), "apt-get install iptables") {
			t.Errorf("error: %v", err)
		}
	}
}

// TestWhatTheKernelRefusesIsExplained: with what it lacks as a rule, and with the line; and of the change nothing is done.
func TestWhatTheKernelRefusesIsExplained(t *testing.T) {
	backends(t, func(t *testing.T, h host) {
		section := h.k.Outgoing(time.Hour)
		table := reconcile.NewTable("section", section)
		settle(t, table, outgoing())
		bad := nat.EntryOf(`-m bpf --bytecode "1,21 0 5 0" -j RETURN`) // a jump to nowhere
		failed := section.Apply(t.Context(), map[nat.EntryKey]nat.Entry{
			{Name: "bad", Family: 4}: bad, {Name: "good", Family: 4}: nat.EntryOf("-j RETURN"), {Name: "good", Family: 6}: nat.EntryOf("-j RETURN"),
		}, nil)
		err := failed[nat.EntryKey{Name: "good", Family: 4}]
		if err == nil || !strings.Contains(err.Error(), "modprobe -a iptable_nat") || strings.Contains(err.Error(), "\n") || len(failed) != 2 {
			t.Errorf("failed: %v", failed)
		}
		want := outgoing()
		want[nat.EntryKey{Name: "good", Family: 6}] = nat.EntryOf("-j RETURN")
		if r := settle(t, table, want); r.Total() != 0 {
			t.Errorf("wrote %v", r.Writes)
		}
	})
}

// TestIPTablesThatHangsHoldsNoMappingUp: nor anything after it.
func TestIPTablesThatHangsHoldsNoMappingUp(t *testing.T) {
	use(t, "nft")
	dir := trap(t)
	for _, name := range []string{"iptables-nft-restore", "iptables-nft-save"} {
		real, err := exec.LookPath(name)
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(strings.NewReplacer("DIR", dir, "REAL", real).Replace(
			"#!/bin/sh\necho $$ > DIR/pid\n[ -e DIR/hang ] && [ \"$1\" != --version ] && exec sleep $(cat DIR/hang)\nexec REAL \"$@\"\n")), 0o755))
	}
	h := newHost(t)
	p := publish(t, h, few())
	ports := h.k.Ports(0)
	_, err := ports.List(t.Context())
	must(t, err)
	hang := filepath.Join(dir, "hang")
	must(t, os.WriteFile(hang, []byte("60"), 0o600))
	more := map[nat.Port]nat.Rule{mapped("udp", "0.0.0.0", 5353): {To: to("10.88.0.2:53")}}
	for what, act := range map[string]func(ctx context.Context) error{
		"list": func(ctx context.Context) error { _, err := ports.List(ctx); return err },
		"put":  func(ctx context.Context) error { return p.ports.Apply(ctx, more, nil)[mapped("udp", "0.0.0.0", 5353)] },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		begun := time.Now()
		err := act(ctx)
		cancel()
		if took := time.Since(begun); !errors.Is(err, context.DeadlineExceeded) || took > 5*time.Second {
			t.Errorf("%s: %v after %v", what, err, took)
		}
		checkEnded(t, dir)
	}
	must(t, os.Remove(hang))
	want := few()
	maps.Copy(want, more)
	settle(t, p.table, want)
}

// TestBusyLockIsTriedAgainForMappings: who holds the lock of the old back end is waited for, but not for ever.
func TestBusyLockIsTriedAgainForMappings(t *testing.T) {
	use(t, "legacy")
	h := newHost(t)
	p := publish(t, h, few())
	lock, err := os.OpenFile(os.Getenv("XTABLES_LOCKFILE"), os.O_RDWR|os.O_CREATE, 0o600)
	must(t, err)
	defer lock.Close()
	must(t, unix.Flock(int(lock.Fd()), unix.LOCK_EX))
	extra := mapped("udp", "0.0.0.0", 5353)
	if err := p.ports.Put(t.Context(), extra, nat.Rule{To: to("10.88.0.2:53")}); err == nil || !strings.Contains(err.Error(), "holds the lock") {
		t.Errorf("error: %v", err)
	}
	must(t, lock.Close())
	want := few()
	want[extra] = nat.Rule{To: to("10.88.0.2:53")}
	settle(t, p.table, want)
}
