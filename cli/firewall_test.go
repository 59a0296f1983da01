package cli

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestRulesets walks the rule sets of hosts as people have them. The files are what the tools print.
func TestRulesets(t *testing.T) {
	tests := []struct {
		file string
		pool string
		want string // the flow that is dropped first and by what, "" when all pass
	}{
		{"docker.save", "10.88.0.0/16", "from other hosts to containers: policy of FORWARD"},
		{"docker.save", "172.31.0.0/16", ""}, // accepted in DOCKER-USER
		{"open.save", "10.88.0.0/16", ""},
		{"ufw.save", "10.88.0.0/16", "from other hosts to containers: policy of FORWARD (unsure)"},
		{"reject.save", "10.88.0.0/16", "from containers to other hosts: -A OUTBOUND ! -d 192.0.2.0/24 -j REJECT --reject-with icmp-net-prohibited"},
		{"reject.save", "192.0.2.0/25", ""},
		{"loop.save", "10.88.0.0/16", ""},
		{"docker6.save", "2001:db8:88::/64", "from other hosts to containers: policy of FORWARD"},
		{"drop.nft", "10.88.0.0/16", "from other hosts to containers: rule of inet f z with handle 8"},
		{"drop.nft", "2001:db8:88::/64", "from other hosts to containers: policy of inet f forward"},
		{"families.nft", "10.88.0.0/16", ""},
		{"families.nft", "2001:db8:88::/64", "from other hosts to containers: rule of inet g forward with handle 5"},
		{"firewalld.nft", "10.88.0.0/16", "from other hosts to containers: rule of inet firewalld filter_FORWARD with handle 12 (unsure)"},
		{"iptables.nft", "10.88.0.0/16", ""}, // iptables-save speaks for this table
	}
	for _, test := range tests {
		t.Run(test.file+" "+test.pool, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("testdata", "rules", test.file))
			if err != nil {
				t.Fatal(err)
			}
			r := parseIPTables(string(text))
			if strings.HasSuffix(test.file, ".nft") {
				if r, err = parseNft(text, true); err != nil {
					t.Fatal(err)
				}
			}
			if got := firstDropped(r, netip.MustParsePrefix(test.pool)); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func firstDropped(r ruleset, pool netip.Prefix) string {
	for _, f := range flows(pool, "eth0") {
		if o := r.judge(f); o.dropped {
			text := f.what + ": " + o.by
			if o.unsure {
				text += " (unsure)"
			}
			return text
		}
	}
	return ""
}

func TestFirewallFindings(t *testing.T) {
	docker, err := os.ReadFile("testdata/rules/docker.save")
	if err != nil {
		t.Fatal(err)
	}
	f := healthy()
	f.firewall = []firewallFacts{{tool: "iptables-save", family: 4, rules: parseIPTables(string(docker))}}
	got := judgeFirewall(f)
	want := failure("iptables -I DOCKER-USER -i fl+ -s 10.88.0.0/16 -j ACCEPT; iptables -I DOCKER-USER -o fl+ -d 10.88.0.0/16 -j ACCEPT",
		"iptables-save drops packets of 10.88.0.0/16 from other hosts to containers: policy of FORWARD")
	if len(got) != 1 || got[0] != want {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	f.kernel.root = false
	if got := judgeFirewall(f); got != nil {
		t.Errorf("not root: %+v", got)
	}
}

func TestQuotedWords(t *testing.T) {
	got := strings.Join(quotedWords(`-A X  -m comment --comment "a \"b\" -j DROP" --x "" -j ACCEPT`), "|")
	if want := `-A|X|-m|comment|--comment|a "b" -j DROP|--x||-j|ACCEPT`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func FuzzParseRules(f *testing.F) {
	files, err := filepath.Glob("testdata/rules/*")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Fuzz(func(t *testing.T, text string) {
		pool := netip.MustParsePrefix("10.88.0.0/16")
		firstDropped(parseIPTables(text), pool)
		if r, err := parseNft([]byte(text), false); err == nil {
			firstDropped(r, pool)
		}
	})
}
