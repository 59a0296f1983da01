package nettest

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// State is what a host's kernel holds, as sorted lines; each begins with the table that it is from.
type State []string

// kernelViews are the commands that show a kernel table each.
func kernelViews() [][]string {
	return [][]string{
		{"ip", "-details", "-oneline", "link", "show"},
		{"ip", "-oneline", "address", "show"},
		{"ip", "-4", "route", "show", "table", "all"},
		{"ip", "-6", "route", "show", "table", "all"},
		{"ip", "-4", "rule", "show"},
		{"ip", "-6", "rule", "show"},
		{"ip", "neighbour", "show", "nud", "permanent"},
		{"bridge", "fdb", "show"},
		{"iptables-save"},
		{"ip6tables-save"},
		{"iptables-legacy-save"},
		{"nft", "list", "ruleset"},
		{"ipset", "save"},
	}
}

// numbered is the index of one of Fairlead's own links, which is another one whenever the link is made anew.
func numbered() *regexp.Regexp {
	return regexp.MustCompile(`^\d+: (fl(?:vxlan6?|ipip|gre|[0-9a-f]{10}))(?:@if\d+)?\b`)
}

// volatile is what changes by itself: counters, ages, and whether a cable is plugged in.
func volatile() *regexp.Regexp {
	return regexp.MustCompile(`valid_lft \S+|preferred_lft \S+|expires \S+|\[\d+:\d+\]|^# .*|counter packets \d+ bytes \d+` +
		`|new_netnsid \d+|link-netnsid \d+|state (UP|DOWN|UNKNOWN|LOWERLAYERDOWN)|timer +[\d.]+|designated_root \S+|root_id \S+`)
}

// told is what another view shows better or what says nothing: the tables of iptables as nft prints them, and those of
// them that have nothing but their own chains. iptables makes such ones whenever it is run for the first time, and takes
// none away; they let everything through.
func told() *regexp.Regexp {
	return regexp.MustCompile(`(?m)^table ip6? (filter|nat|mangle|raw|security) \{\n(\t.*\n|\n)*\}\n|^\*\w+\n(:[A-Z]+ ACCEPT .*\n)+COMMIT\n`)
}

// State reads the host's kernel.
func (h *Host) State() State {
	h.t.Helper()
	var s State
	skip, own, known := volatile(), numbered(), told()
	for _, argv := range kernelViews() {
		for line := range strings.Lines(known.ReplaceAllString(h.Run(argv...), "")) {
			line = strings.Join(strings.Fields(skip.ReplaceAllString(line, "")), " ")
			line = own.ReplaceAllString(line, "$1")
			if line != "" {
				s = append(s, strings.Join(argv[:min(2, len(argv))], " ")+": "+line)
			}
		}
	}
	s = append(s, h.sysctls()...)
	slices.Sort(s)
	return s
}

// sysctls reads the settings that forwarding and routing depend on, of the host and of each of its links.
func (h *Host) sysctls() []string {
	h.t.Helper()
	var all []string
	err := h.Do(func() error {
		for _, pattern := range []string{"ipv4/*", "ipv6/*", "ipv4/conf/*/*", "ipv6/conf/*/*", "ipv4/neigh/*/*", "ipv6/neigh/*/*"} {
			paths, err := filepath.Glob("/proc/sys/net/" + pattern)
			if err != nil {
				return err
			}
			for _, path := range paths {
				value, err := os.ReadFile(path)
				if err == nil && filepath.Base(path) != "stable_secret" {
					all = append(all, fmt.Sprintf("sysctl: %s = %s", path[len("/proc/sys/"):], strings.TrimSpace(string(value))))
				}
			}
		}
		return nil
	})
	if err != nil {
		h.t.Fatalf("%s: read sysctls: %v", h.Name, err)
	}
	return all
}

// Diff lists the lines that only one of two states has: "- " the first, "+ " the second.
func Diff(before, after State) []string {
	var diff []string
	count := make(map[string]int)
	for _, line := range before {
		count[line]--
	}
	for _, line := range after {
		count[line]++
	}
	for line, n := range count {
		for ; n < 0; n++ {
			diff = append(diff, "- "+line)
		}
		for ; n > 0; n-- {
			diff = append(diff, "+ "+line)
		}
	}
	slices.SortFunc(diff, func(a, b string) int { return strings.Compare(a[2:], b[2:]) })
	return diff
}
