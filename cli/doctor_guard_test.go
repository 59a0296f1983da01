package cli

import (
	"strings"
	"testing"
)

func TestDoctorTellsWhetherStrangersAreKeptOut(t *testing.T) {
	const missing = `exec: "iptables": executable file not found in $PATH: apt-get install iptables, or set accept = "any" under [tunnel]`
	for _, c := range []struct {
		mode, accept, probe string
		level               level
		message, fix        string
	}{
		{"auto", "peers", "", levelOK, "only nodes", ""},
		{"auto", "", "", levelOK, "only nodes", ""},
		{"auto", "any", missing, levelOK, "everybody may send", ""},
		{"auto", "peers", missing, levelFail, "strangers can not be kept out", "apt-get install iptables"},
		{"auto", "peers", "iptables needs CAP_NET_ADMIN and CAP_NET_RAW: no", levelFail, "CAP_NET_RAW", "sudo fairlead doctor"},
		{"vxlan", "peers", "this kernel has no sets of addresses", levelFail, "no sets of addresses", "modprobe -a ip_set_hash_ip"},
	} {
		f := healthy()
		f.config.Mode, f.config.Accept, f.kernel.probes[guardProbe] = c.mode, c.accept, c.probe
		got := judgeGuard(f)
		if len(got) != 1 || got[0].Level != c.level || !strings.Contains(got[0].Message, c.message) || !strings.Contains(got[0].Fix, c.fix) {
			t.Errorf("%+v: %+v", c, got)
		}
	}
	f := healthy()
	f.config.Mode, f.kernel.probes[guardProbe] = "host-gw", missing
	if got := judgeGuard(f); got != nil {
		t.Errorf("no tunnels: %+v", got)
	}
	delete(f.kernel.probes, guardProbe)
	f.config.Mode = "auto"
	if got := judgeGuard(f); got != nil {
		t.Errorf("not tried: %+v", got)
	}
}
