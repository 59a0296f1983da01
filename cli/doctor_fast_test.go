package cli

import "testing"

func TestDoctorOnTheFastPath(t *testing.T) {
	for words, want := range map[string]level{
		"on (tcx)": levelOK, "on (clsact), 4 programs still to be attached": levelOK, "off": levelOK, "off: eBPF is not allowed here": levelWarn,
	} {
		f := &hostFacts{}
		f.daemon.status.Fastpath = words
		found := judgeFast(f)
		if len(found) != 1 || found[0].Level != want {
			t.Errorf("%s: %+v", words, found)
		}
	}
	if found := judgeFast(&hostFacts{}); len(found) != 0 {
		t.Errorf("nothing is known: %+v", found)
	}
}
