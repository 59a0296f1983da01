package tunnel_test

import (
	"testing"

	"github.com/fairlead-net/fairlead/tunnel"
)

func TestTheOffloadThatIsWanted(t *testing.T) {
	const on, off = tunnel.OffloadOn, tunnel.OffloadOff
	for _, c := range []struct {
		verdict    tunnel.Verdict
		have, want tunnel.Offload
	}{
		{tunnel.VerdictUnknown, "", on}, {tunnel.VerdictUnknown, on, on}, {tunnel.VerdictUnknown, off, off},
		{tunnel.VerdictGood, "", on}, {tunnel.VerdictGood, on, on}, {tunnel.VerdictGood, off, off},
		{tunnel.VerdictBad, "", off}, {tunnel.VerdictBad, on, off}, {tunnel.VerdictBad, off, off},
	} {
		if got := tunnel.ChooseOffload(c.verdict, c.have); got != c.want {
			t.Errorf("%s, and the device has it %q: %s, want %s", c.verdict, c.have, got, c.want)
		}
	}
}

func TestOneBadVerdictDecides(t *testing.T) {
	const good, bad, unknown = tunnel.VerdictGood, tunnel.VerdictBad, tunnel.VerdictUnknown
	for _, c := range []struct {
		all  []tunnel.Verdict
		want tunnel.Verdict
	}{
		{nil, unknown}, {[]tunnel.Verdict{unknown, unknown}, unknown}, {[]tunnel.Verdict{unknown, good, unknown}, good},
		{[]tunnel.Verdict{good, bad, good}, bad}, {[]tunnel.Verdict{unknown, bad}, bad},
	} {
		if got := tunnel.Together(c.all...); got != c.want {
			t.Errorf("%v together: %s, want %s", c.all, got, c.want)
		}
	}
}

func TestOnlyAnAnsweredControlAccuses(t *testing.T) {
	for _, c := range []struct {
		asked, answered, controls int
		want                      tunnel.Verdict
	}{
		{1, 1, 0, tunnel.VerdictGood}, {4, 1, 4, tunnel.VerdictGood}, {4, 4, 0, tunnel.VerdictGood},
		{4, 0, 4, tunnel.VerdictBad}, {4, 0, 3, tunnel.VerdictBad},
		{4, 0, 2, tunnel.VerdictUnknown}, {4, 0, 0, tunnel.VerdictUnknown}, {3, 0, 3, tunnel.VerdictUnknown}, {0, 0, 0, tunnel.VerdictUnknown},
	} {
		if got := tunnel.JudgeOffload(c.asked, c.answered, c.controls); got != c.want {
			t.Errorf("of %d: %d answered, %d controls: %s, want %s", c.asked, c.answered, c.controls, got, c.want)
		}
	}
}
