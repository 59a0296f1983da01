package cli

import "strings"

// judgeFast tells whether containers' packets go past the host's stack, as the daemon says; before the first start nobody knows
// more than the kernel's examination.
func judgeFast(f *hostFacts) []finding {
	words := f.daemon.status.Fastpath
	why, broken := strings.CutPrefix(words, "off: ")
	switch {
	case !f.daemon.up() || words == "":
		return nil
	case broken:
		return []finding{warning("fairlead status # again, once what it names is mended and the daemon restarted",
			"containers' packets go through the host's network stack, which is slower: %s", why)}
	case words == "off":
		return []finding{fine("the fast path is switched off: [fastpath] mode")}
	}
	return []finding{fine("containers' packets go past the host's network stack: %s", words)}
}
