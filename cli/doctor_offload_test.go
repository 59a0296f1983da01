package cli

import (
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/tunnel"
)

func TestDoctorTellsOfTheChecksumOffload(t *testing.T) {
	const on, off = tunnel.OffloadOn, tunnel.OffloadOff
	for _, c := range []struct {
		verdict string
		have    tunnel.Offload
		level   level
		part    string
		fix     string
	}{
		{"", on, levelOK, "flvxlan is on", ""},
		{"unknown", on, levelOK, "flvxlan is on; no peer has answered", ""},
		{"good", on, levelOK, "flvxlan is on, and the self-test passed", ""},
		{"bad", on, levelFail, "flvxlan is on, and the self-test failed", "ethtool -K flvxlan tx off"},
		{"bad", off, levelWarn, "flvxlan is off, because the self-test failed: the kernel or the card of eth0",
			"systemctl stop fairlead; ip link delete flvxlan; systemctl start fairlead"},
		{"unknown", off, levelOK, "flvxlan is off: by hand, or by a self-test before", ""},
		{"", off, levelOK, "flvxlan is off: by hand, or by a self-test before", ""},
	} {
		f := healthy()
		f.daemon.status.Offload = c.verdict
		f.network.links[1].offload = c.have
		found := judgeOffload(f)
		if len(found) != 1 {
			t.Fatalf("%s, %s: %+v", c.verdict, c.have, found)
		}
		got := found[0]
		if got.Level != c.level || !strings.Contains(got.Message, c.part) || !strings.HasPrefix(got.Fix, c.fix) || c.fix == "" && got.Fix != "" {
			t.Errorf("%s, %s: %+v", c.verdict, c.have, got)
		}
	}
	if found := judgeOffload(healthy()); len(found) != 0 {
		t.Errorf("of what is not known: %+v", found)
	}
}
