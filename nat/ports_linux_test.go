package nat_test

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/nat"
	"github.com/fairlead-net/fairlead/nettest"
	"github.com/fairlead-net/fairlead/reconcile"
)

func mapped(proto, ip string, number uint16) nat.Port {
	return nat.Port{Proto: proto, IP: addr(ip), Number: number}
}

func few() map[nat.Port]nat.Rule {
	return map[nat.Port]nat.Rule{
		mapped("tcp", "0.0.0.0", 8080):      {To: to("10.88.0.2:80")},
		mapped("tcp", "0.0.0.0", 8081):      {To: to("10.88.0.3:80")},
		mapped("tcp", "192.0.2.1", 65535):   {To: to("10.88.0.2:81")},
		mapped("udp", "0.0.0.0", 1):         {To: to("10.88.0.2:53")},
		mapped("sctp", "192.0.2.1", 3868):   {To: to("10.88.0.2:3868")},
		mapped("tcp", "::", 8080):           {To: to("[fd00:88::2]:80")},
		mapped("sctp", "2001:db8:1::1", 80): {To: to("[fd00:88::2]:1")},
	}
}

// row makes n mappings of TCP ports that are spread over all.
func row(n int) map[nat.Port]nat.Rule {
	all := make(map[nat.Port]nat.Rule, n)
	for i := range n {
		to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 99, byte(i >> 8), byte(i)}), 80)
		all[mapped("tcp", "0.0.0.0", uint16(10000+i*31%50000))] = nat.Rule{To: to}
	}
	return all
}

func noMapping() map[nat.Port]nat.Rule { return map[nat.Port]nat.Rule{} }

// published is a host with mappings. What was read of them is believed for an hour: only news can say otherwise.
type published struct {
	host
	ports *nat.Ports
	table *reconcile.Table[nat.Port, nat.Rule]
}

func publish(t *testing.T, h host, want map[nat.Port]nat.Rule) published {
	t.Helper()
	ports := h.k.Ports(time.Hour)
	p := published{h, ports, reconcile.NewTable("ports", ports)}
	settle(t, p.table, want)
	return p
}

// saved is the table nat as iptables-save prints it, without counters and without what it says of itself.
func (h host) saved(tool string) (lines []string) {
	for line := range strings.Lines(h.Run("sh", "-c", "$(readlink -f $(command -v "+tool+")) "+tool+"-save -t nat")) {
		if strings.HasPrefix(line, ":") {
			line, _, _ = strings.Cut(line, " [")
		}
		if line = strings.TrimSpace(line); !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	return lines
}

func TestMappingsAsRules(t *testing.T) {
	backends(t, func(t *testing.T, h host) {
		for _, hook := range []string{"PREROUTING", "OUTPUT"} {
			h.iptables("-t nat -A " + hook + " -p tcp --dport 22 -j ACCEPT")
			h.ip6tables("-t nat -A " + hook + " -p tcp --dport 22 -j ACCEPT")
		}
		foreign := h.world()
		p := publish(t, h, few())
		want := `*nat
:PREROUTING ACCEPT
:INPUT ACCEPT
:OUTPUT ACCEPT
:POSTROUTING ACCEPT
:FAIRLEAD-DNAT -
:FAIRLEAD-DNAT-s -
:FAIRLEAD-DNAT-s0-1023 -
:FAIRLEAD-DNAT-s0-16383 -
:FAIRLEAD-DNAT-s0-255 -
:FAIRLEAD-DNAT-s0-4095 -
:FAIRLEAD-DNAT-s64-95 -
-A PREROUTING ! -d ::1/128 -m addrtype --dst-type LOCAL -j FAIRLEAD-DNAT
-A OUTPUT -m addrtype --dst-type LOCAL -j FAIRLEAD-DNAT
-A PREROUTING -p tcp -m tcp --dport 22 -j ACCEPT
-A OUTPUT -p tcp -m tcp --dport 22 -j ACCEPT
-A FAIRLEAD-DNAT -p tcp -g FAIRLEAD-DNAT-t
-A FAIRLEAD-DNAT -p sctp -g FAIRLEAD-DNAT-s
-A FAIRLEAD-DNAT-s -p sctp -m sctp --dport 0:16383 -g FAIRLEAD-DNAT-s0-16383
-A FAIRLEAD-DNAT-s0-1023 -p sctp -m sctp --dport 0:255 -g FAIRLEAD-DNAT-s0-255
-A FAIRLEAD-DNAT-s0-16383 -p sctp -m sctp --dport 0:4095 -g FAIRLEAD-DNAT-s0-4095
-A FAIRLEAD-DNAT-s0-255 -p sctp -m sctp --dport 64:95 -g FAIRLEAD-DNAT-s64-95
-A FAIRLEAD-DNAT-s0-4095 -p sctp -m sctp --dport 0:1023 -g FAIRLEAD-DNAT-s0-1023
-A FAIRLEAD-DNAT-s64-95 -d 2001:db8:1::1/128 -p sctp -m sctp --dport 80 -j DNAT --to-destination [fd00:88::2]:1
COMMIT`
		got := slices.DeleteFunc(h.saved("ip6tables"), func(line string) bool {
			return strings.Contains(line, "FAIRLEAD-DNAT-t") && line != "-A FAIRLEAD-DNAT -p tcp -g FAIRLEAD-DNAT-t"
		})
		if diff := cmp.Diff(slices.Sorted(strings.Lines(want+"\n")), slices.Sorted(strings.Lines(strings.Join(got, "\n")+"\n"))); diff != "" {
			t.Errorf("IPv6:\n%s", diff)
		}
		if first := strings.Split(h.iptables("-t nat -S PREROUTING"), "\n")[1]; first != "-A PREROUTING ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j FAIRLEAD-DNAT" {
			t.Errorf("PREROUTING begins with %s", first)
		}
		if first := strings.Split(h.ip6tables("-t nat -S OUTPUT"), "\n")[1]; first != "-A OUTPUT -m addrtype --dst-type LOCAL -j FAIRLEAD-DNAT" {
			t.Errorf("OUTPUT begins with %s", first)
		}
		for _, line := range []string{
			"-A FAIRLEAD-DNAT-t8064-8095 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.88.0.2:80",
			"-A FAIRLEAD-DNAT-t8064-8095 -p tcp -m tcp --dport 8081 -j DNAT --to-destination 10.88.0.3:80",
			"-A FAIRLEAD-DNAT-t65504-65535 -d 192.0.2.1/32 -p tcp -m tcp --dport 65535 -j DNAT --to-destination 10.88.0.2:81",
			"-A FAIRLEAD-DNAT-u0-31 -p udp -m udp --dport 1 -j DNAT --to-destination 10.88.0.2:53",
		} {
			if !slices.Contains(h.saved("iptables"), line) {
				t.Errorf("there is no %s", line)
			}
		}
		// A second daemon that knows nothing finds what there is, and has nothing to write.
		if r := settle(t, reconcile.NewTable("ports", h.k.Ports(time.Hour)), few()); r.Total() != 0 {
			t.Errorf("wrote %v", r.Writes)
		}
		less := few()
		delete(less, mapped("sctp", "192.0.2.1", 3868))
		less[mapped("tcp", "0.0.0.0", 8080)] = nat.Rule{To: to("10.88.0.9:80")}
		if r := settle(t, p.table, less); r.Total() != 2 {
			t.Errorf("wrote %v", r.Writes)
		}
		if r := settle(t, reconcile.NewTable("ports", h.k.Ports(time.Hour)), less); r.Total() != 0 {
			t.Errorf("wrote %v", r.Writes)
		}
		if all := strings.Join(h.saved("iptables"), "\n"); strings.Contains(all, "FAIRLEAD-DNAT-s") {
			t.Errorf("chains that are not needed:\n%s", all)
		}
		settle(t, p.table, noMapping())
		if diff := cmp.Diff(foreign, h.world()); diff != "" {
			t.Errorf("not as before:\n%s", diff)
		}
	})
}

// TestMappingsChangeAtRandom takes the kernel through changes and asks a stranger each time what is there.
func TestMappingsChangeAtRandom(t *testing.T) {
	backends(t, func(t *testing.T, h host) {
		p := publish(t, h, noMapping())
		all := slices.SortedFunc(maps.Keys(row(200)), nat.Port.Compare)
		want := noMapping()
		for i := range 8 {
			for n, port := range all {
				switch (n*7 + i*i) % 11 {
				case 0:
					want[port] = nat.Rule{To: netip.AddrPortFrom(addr("10.88.0.2"), uint16(1+i))}
				case 1, 2:
					delete(want, port)
				}
			}
			settle(t, p.table, want)
			have, err := h.k.Ports(0).List(t.Context())
			must(t, err)
			if diff := cmp.Diff(want, have, addresses()); diff != "" {
				t.Fatalf("round %d (-want +have)\n%s", i, diff)
			}
		}
		settle(t, p.table, noMapping())
	})
}

// serve answers each TCP connection with a word, and says where it came from.
func serve(t *testing.T, h *nettest.Host, at netip.AddrPort, word string) {
	t.Helper()
	must(t, h.Do(func() error {
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", at.String())
		if err != nil {
			return err
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = fmt.Fprintf(c, "%s to %s", word, c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap())
				_ = c.Close()
			}
		}()
		t.Cleanup(func() { _ = l.Close(); <-done })
		return nil
	}))
}

func ask(t *testing.T, h *nettest.Host, at netip.AddrPort) (answer string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), nettest.Patience(5*time.Second))
	defer cancel()
	err = h.Do(func() error {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", at.String())
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetReadDeadline(time.Now().Add(nettest.Patience(5 * time.Second)))
		text, err := io.ReadAll(c)
		answer = string(text)
		return err
	})
	return answer, err
}

// TestPacketsAreTranslated sends real ones through the last of a thousand mappings, and beside them.
func TestPacketsAreTranslated(t *testing.T) {
	s := newStreet(t)
	serve(t, s.box, to("[::]:80"), "80")
	serve(t, s.box, to("[::]:81"), "81")
	serve(t, s.Host, to("[::]:7777"), "host")
	for _, backend := range []string{"nft", "legacy"} {
		t.Run(backend, func(t *testing.T) {
			use(t, backend)
			want := row(997)
			const last = 65535
			want[mapped("tcp", "0.0.0.0", last)] = nat.Rule{To: to("10.88.0.2:80")}
			want[mapped("tcp", "192.0.2.9", last-1)] = nat.Rule{To: to("10.88.0.3:81")}
			want[mapped("tcp", "::", last)] = nat.Rule{To: to("[fd00:88::2]:81")}
			p := publish(t, s.host, want)
			for _, c := range []struct {
				from *nettest.Host
				to   string
				want string // empty: refused
			}{
				{s.client, "192.0.2.1:65535", "80 to 192.0.2.2"}, {s.client, "192.0.2.9:65535", "80 to 192.0.2.2"},
				{s.client, "192.0.2.9:65534", "81 to 192.0.2.2"}, {s.client, "192.0.2.1:65534", ""},
				{s.client, "[2001:db8:1::1]:65535", "81 to 2001:db8:1::2"}, {s.client, "[2001:db8:1::1]:65534", ""},
				{s.Host, "192.0.2.1:65535", "80 to 192.0.2.1"}, {s.Host, "[::1]:65533", ""},
				{s.client, "192.0.2.1:7777", "host to 192.0.2.2"}, {s.client, "10.88.0.2:65535", ""},
			} {
				got, err := ask(t, c.from, to(c.to))
				if got != c.want || (err != nil) != (c.want == "") {
					t.Errorf("%s asked for %s: %q, %v, want %q", c.from.Name, c.to, got, err, c.want)
				}
			}
			settle(t, p.table, noMapping())
			if _, err := ask(t, s.client, to("192.0.2.1:65535")); err == nil {
				t.Error("answered without a mapping")
			}
		})
	}
}

// TestCountersOfNeighboursStay: what is changed beside a rule leaves it as it is.
func TestCountersOfNeighboursStay(t *testing.T) {
	backends(t, func(t *testing.T, h host) {
		h.IP("link set lo up")
		want := map[nat.Port]nat.Rule{mapped("tcp", "0.0.0.0", 8080): {To: to("127.0.0.1:1")}}
		p := publish(t, h, want)
		for range 3 {
			_, _ = ask(t, h.Host, to("127.0.0.1:8080")) // refused there
		}
		count := func() string {
			fields := strings.Fields(h.iptables("-t nat -nvL FAIRLEAD-DNAT-t8064-8095"))
			return fields[slices.Index(fields, "DNAT")-2]
		}
		before := count()
		if before != "3" {
			t.Fatalf("counted %s", before)
		}
		for _, change := range []func(){
			func() { want[mapped("tcp", "0.0.0.0", 8079)] = nat.Rule{To: to("10.88.0.2:80")} },
			func() { want[mapped("tcp", "0.0.0.0", 8081)] = nat.Rule{To: to("10.88.0.2:80")} },
			func() { want[mapped("udp", "0.0.0.0", 8080)] = nat.Rule{To: to("10.88.0.2:80")} },
			func() { maps.Copy(want, row(50)) },
			func() { delete(want, mapped("tcp", "0.0.0.0", 8079)) },
			func() { h.iptables("-t nat -I FAIRLEAD-DNAT-t8064-8095 -p tcp --dport 99 -j ACCEPT") },
			func() { h.iptables("-t nat -D OUTPUT 1") },
		} {
			change()
			settle(t, reconcile.NewTable("ports", h.k.Ports(0)), want)
			line := strings.Count(h.iptables("-t nat -S FAIRLEAD-DNAT-t8064-8095"), "--dport 99")
			fields := strings.Fields(h.iptables("-t nat -nvL FAIRLEAD-DNAT-t8064-8095"))
			at := slices.IndexFunc(fields, func(f string) bool { return f == "dpt:8080" })
			if line != 0 || !slices.Contains(fields[max(0, at-12):at], "3") {
				t.Errorf("counters are\n%s", h.iptables("-t nat -nvL FAIRLEAD-DNAT-t8064-8095"))
			}
		}
		_ = p
	})
}

// TestTenThousandMappings: in one call, one more beside them, and all away again.
func TestTenThousandMappings(t *testing.T) {
	backends(t, func(t *testing.T, h host) {
		foreign := h.world()
		ports := h.k.Ports(time.Hour)
		want := row(10000)
		begun := time.Now()
		if failed := ports.Apply(t.Context(), want, nil); len(failed) != 0 {
			t.Fatalf("%d failed", len(failed))
		}
		took := time.Since(begun)
		port := mapped("udp", "0.0.0.0", 53)
		want[port] = nat.Rule{To: to("10.88.0.2:53")}
		begun = time.Now()
		must(t, ports.Put(t.Context(), port, want[port]))
		t.Logf("10000 mappings: %v, one more: %v", took, time.Since(begun))
		for _, reader := range []*nat.Ports{ports, h.k.Ports(0)} {
			have, err := reader.List(t.Context())
			must(t, err)
			if !maps.Equal(want, have) {
				t.Errorf("%d mappings, want %d", len(have), len(want))
			}
		}
		if failed := ports.Apply(t.Context(), nil, slices.Collect(maps.Keys(want))); len(failed) != 0 {
			t.Fatalf("%d failed", len(failed))
		}
		if left := h.world(); strings.Contains(left, "FAIRLEAD") {
			t.Errorf("not as before:\n%s", cmp.Diff(foreign, left))
		}
	})
}
