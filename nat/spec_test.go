package nat_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/nat"
)

func TestSpecsAreDockers(t *testing.T) {
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	for text, want := range map[string][]nat.Spec{
		"80":                    {{Port: 80, Proto: "tcp"}},
		"53/udp":                {{Port: 53, Proto: "udp"}},
		"8080:80":               {{HostPort: 8080, HostLast: 8080, Port: 80, Proto: "tcp"}},
		"192.0.2.1:8080:80":     {{HostIP: v4, HostPort: 8080, HostLast: 8080, Port: 80, Proto: "tcp"}},
		"192.0.2.1::80/sctp":    {{HostIP: v4, Port: 80, Proto: "sctp"}},
		"[2001:db8::1]:8080:80": {{HostIP: v6, HostPort: 8080, HostLast: 8080, Port: 80, Proto: "tcp"}},
		"[2001:db8::1]::80":     {{HostIP: v6, Port: 80, Proto: "tcp"}},
		"8000-8010:80":          {{HostPort: 8000, HostLast: 8010, Port: 80, Proto: "tcp"}},
		"8000-8001:80-81/udp":   {{HostPort: 8000, HostLast: 8000, Port: 80, Proto: "udp"}, {HostPort: 8001, HostLast: 8001, Port: 81, Proto: "udp"}},
		"80-81":                 {{Port: 80, Proto: "tcp"}, {Port: 81, Proto: "tcp"}},
		"65535:65535":           {{HostPort: 65535, HostLast: 65535, Port: 65535, Proto: "tcp"}},
	} {
		got, err := nat.ParseSpec(text)
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); err != nil || diff != "" {
			t.Errorf("%s: %v %s", text, err, diff)
		}
	}
}

func TestBadSpecsSayWhatIsWrong(t *testing.T) {
	for text, says := range map[string]string{
		"":                    "port",
		"0":                   "1 to 65535",
		"65536":               "1 to 65535",
		"-1":                  "1 to 65535",
		"+80":                 "1 to 65535",
		"http":                "http",
		"80/icmp":             "tcp, udp, sctp",
		"80/":                 "tcp, udp, sctp",
		"80/tcp/udp":          "tcp, udp, sctp",
		"web:8080:80":         "web",
		"8080:":               "port",
		"2001:db8::1:8080:80": "brackets",
		"[2001:db8::1:80":     "']:'",
		"[fe80::1%eth0]:1:80": "own",
		"[::ffff:1.2.3.4]::1": "own",
		"9-8:80":              "range",
		"1-65535:80":          "range",
		"8000-8002:80-81":     "3 host ports for 2 ports",
		"8000:80-81":          "1 host ports for 2 ports",
	} {
		_, err := nat.ParseSpec(text)
		if !errors.Is(err, nat.ErrSpec) || !strings.Contains(fmt.Sprint(err), says) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// FuzzSpec: nothing panics, and what is understood can be written and read again.
func FuzzSpec(f *testing.F) {
	for _, seed := range []string{"80", "8080:80/udp", "192.0.2.1::80", "[2001:db8::1]:1-9:80", "1-2:3-4/sctp", "::", "[]:", "/"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, given string) {
		specs, err := nat.ParseSpec(given)
		if err != nil {
			return
		}
		for _, s := range specs {
			again, err := nat.ParseSpec(s.String())
			if err != nil || len(again) != 1 || again[0] != s {
				t.Fatalf("%q gives %v, which gives %v, %v", given, s, again, err)
			}
		}
	})
}
