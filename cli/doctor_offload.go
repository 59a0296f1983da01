package cli

import "github.com/fairlead-net/fairlead/tunnel"

// judgeOffload tells of each VXLAN device of ours who fills in the checksums of what it sends. The daemon turns the offload
// off where its test fails, so nothing is broken then; it costs processor time.
func judgeOffload(f *hostFacts) []finding {
	var found []finding
	verdict := tunnel.Verdict(f.daemon.status.Offload)
	for _, l := range f.network.links {
		// What is off stays off, so only another device is tested again, and a daemon that knows a bad verdict turns it off too.
		anew := "ip link delete " + l.name + " # the daemon makes it anew and tests it again"
		retry := "systemctl stop fairlead; ip link delete " + l.name + "; systemctl start fairlead # tests it again"
		switch {
		case !l.ours() || l.offload == "":
		case l.offload == tunnel.OffloadOff && verdict == tunnel.VerdictBad:
			found = append(found, warning(retry, "checksum offload of %s is off, because the self-test failed: the kernel or the card of %s "+
				"breaks what is left to it; packets arrive, and cost more processor time. An update of either may mend that", l.name, f.network.underlay))
		case l.offload == tunnel.OffloadOff:
			found = append(found, fine("checksum offload of %s is off: by hand, or by a self-test before the daemon's start; %s", l.name, anew))
		case verdict == tunnel.VerdictGood:
			found = append(found, fine("checksum offload of %s is on, and the self-test passed", l.name))
		case verdict == tunnel.VerdictBad:
			found = append(found, failure("ethtool -K "+l.name+" tx off",
				"checksum offload of %s is on, and the self-test failed: other hosts drop what containers send", l.name))
		case verdict == tunnel.VerdictUnknown:
			found = append(found, fine("checksum offload of %s is on; no peer has answered a self-test yet", l.name))
		default:
			found = append(found, fine("checksum offload of %s is on", l.name))
		}
	}
	return found
}
