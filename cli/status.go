package cli

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/fairlead-net/fairlead/agent"
)

func (a *app) status() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "How this node fares, on one screen", GroupID: groupSee,
		Args: arguments(), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client(readTimeout)
			if err != nil {
				return err
			}
			var s agent.Status
			raw, err := c.get(cmd.Context(), "/v1/status", &s)
			if err != nil {
				return err
			}
			if !a.format.human() {
				return printRaw(a.out, a.format, raw)
			}
			_, err = fmt.Fprint(a.out, screen(s, lookOf(a.out)))
			return err
		},
	}
}

// remark is one thing that is not as it should be, and what to do about it.
type remark struct {
	tone tone
	text string
	cure string
}

// remarks are the daemon's own problems, most urgent first, and then what its figures say beyond them.
func remarks(s agent.Status) []remark {
	grave := toneWarn
	if !s.Ready {
		grave = toneBad
	}
	rs := ownWords(s.Problems, grave)
	said := func(part string) bool { return strings.Contains(strings.Join(s.Problems, "\n"), part) }
	if s.ConfigError != "" && !said(s.ConfigError) {
		rs = append(rs, remark{toneWarn, "the changed config was refused, the old one is in force: " + s.ConfigError, cureOfConfig})
	}
	for _, p := range s.Pools {
		if p.Held != "" && !said(p.Held) {
			rs = append(rs, remark{toneBad, fmt.Sprintf("pool %s hands out no address: %s", p.Name, p.Held), ""})
		} else if full(p) {
			rs = append(rs, remark{toneWarn, fmt.Sprintf("pool %s has %s left", p.Name, count(free(p), "address")), cureOfPools})
		}
	}
	if down := s.Peers.Configured - s.Peers.Established; down > 0 && !said("peer ") {
		rs = append(rs, remark{toneWarn, fmt.Sprintf("%s not established", count(down, "peer")), cureOfPeers})
	}
	if s.Drained && !said("drain") {
		rs = append(rs, remark{toneWarn, "drained: the peers send no traffic here", "systemctl restart fairlead"})
	}
	return rs
}

// What to do about a problem: the command that mends it, or the one that shows more.
const (
	cureOfConfig = "fairlead check, then fairlead reload"
	cureOfPeers  = "fairlead peers"
	cureOfRoutes = "fairlead routes"
	cureOfPools  = "fairlead leases"
	cureOfPorts  = "fairlead ports"
)

// atMost is how many problems of one kind are printed: a hundred peers that are down have one cause.
const atMost = 5

// ownWords are the daemon's problems with a cure for each kind, which their first word tells.
func ownWords(problems []string, grave tone) []remark {
	cures := map[string]string{"peer": cureOfPeers, "route": cureOfRoutes, "port": cureOfPorts, "the": cureOfConfig}
	seen := make(map[string]int)
	var rs []remark
	for i, p := range problems {
		kind, _, _ := strings.Cut(p, " ")
		last := i+1 == len(problems) || !strings.HasPrefix(problems[i+1], kind+" ")
		if seen[kind]++; seen[kind] > atMost && !last {
			continue
		}
		if more := seen[kind] - atMost; more > 1 {
			p = fmt.Sprintf("and %d more of these", more)
		}
		rs = append(rs, remark{grave, p, cures[kind]})
	}
	return rs
}

func free(p agent.PoolStatus) int { return max(p.Size-p.Leased-p.Resting, 0) }

// full is when less than a tenth is left.
func full(p agent.PoolStatus) bool { return p.Size > 0 && free(p)*10 < p.Size }

// screen is the whole answer: the verdict, what is wrong, the facts.
func screen(s agent.Status, l look) string {
	var b strings.Builder
	verdict, t := "ready", toneGood
	rs := remarks(s)
	if !s.Ready {
		verdict, t = "NOT READY", toneBad
	} else if len(rs) > 0 {
		t = toneWarn
	}
	fmt.Fprintf(&b, "%s  %s  fairlead %s, up %s\n", l.paint(toneBold, visible(s.Node)), l.paint(t, verdict),
		visible(s.Version), seconds(s.UptimeSeconds))
	for i, r := range rs {
		if i+1 < len(rs) && rs[i+1].cure == r.cure {
			r.cure = "" // said once, after the last that it cures
		}
		b.WriteString(r.print(l))
	}
	b.WriteByte('\n')
	for _, f := range facts(s) {
		b.WriteString(f.print(l, factIndent))
	}
	return b.String()
}

const factIndent = 11 // columns before the facts: the longest name and two spaces

// fact is a name and a value.
type fact struct{ name, value string }

// print writes the value beside the name, and what does not fit below itself.
func (f fact) print(l look, indent int) string {
	var b strings.Builder
	name := fmt.Sprintf("%-*s", indent, f.name)
	for i, line := range l.wrap(visible(f.value), indent) {
		if i > 0 {
			name = strings.Repeat(" ", indent)
		}
		fmt.Fprintf(&b, "%s%s\n", l.paint(toneDim, name), line)
	}
	return b.String()
}

func (r remark) print(l look) string {
	var b strings.Builder
	mark := l.paint(r.tone, "!")
	for i, line := range l.wrap(visible(r.text), 2) {
		if i == 0 {
			fmt.Fprintf(&b, "%s %s\n", mark, line)
			continue
		}
		fmt.Fprintf(&b, "  %s\n", line)
	}
	if r.cure != "" {
		fmt.Fprintf(&b, "  %s %s\n", l.paint(toneDim, "see:"), r.cure)
	}
	return b.String()
}

// facts are names and values in the order in which an operator asks.
func facts(s agent.Status) []fact {
	rows := []fact{
		{"address", addressWords(s.Address)},
		{"peers", peerWords(s.Peers)},
		{"routes", routeWords(s.Routes)},
		{"endpoints", endpointWords(s)},
	}
	name := "pools"
	for _, p := range s.Pools {
		rows, name = append(rows, fact{name, poolWords(p)}), ""
	}
	if s.Fastpath != "" {
		words := s.Fastpath
		if s.FastpathBytes > 0 {
			words += fmt.Sprintf(", %.1f MB of maps", float64(s.FastpathBytes)/1e6)
		}
		rows = append(rows, fact{"fast path", words})
	}
	config := s.ConfigFile
	if config == "" {
		config = "none, the defaults are in force"
	}
	if s.ConfigError != "" {
		config += " (changed and refused)"
	}
	return append(rows, fact{"drift", driftWords(s.DriftRepaired)}, fact{"config", config})
}

func addressWords(a netip.Addr) string {
	if !a.IsValid() {
		return "not found"
	}
	return a.String()
}

func peerWords(p agent.PeerCount) string {
	if p.Configured == 0 {
		return "none configured"
	}
	return fmt.Sprintf("%d of %d established", p.Established, p.Configured)
}

func routeWords(r agent.RouteCount) string {
	var parts []string
	for _, part := range []struct {
		n    int
		what string
	}{{r.Direct, "direct"}, {r.IPIP, "ipip"}, {r.VXLAN, "vxlan"}, {r.GRE, "gre"}, {r.Skipped, "not installed"}} {
		if part.n > 0 {
			parts = append(parts, strconv.Itoa(part.n)+" "+part.what)
		}
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}

func endpointWords(s agent.Status) string {
	if s.Ports == 0 {
		return strconv.Itoa(s.Endpoints)
	}
	return fmt.Sprintf("%d, %s mapped", s.Endpoints, count(s.Ports, "port"))
}

func poolWords(p agent.PoolStatus) string {
	block := "no block yet"
	if p.Block != "" {
		block = "block " + p.Block
	}
	words := fmt.Sprintf("%s %s, %s: %d of %d leased", p.Name, p.CIDR, block, p.Leased, p.Size)
	if p.Resting > 0 {
		words += fmt.Sprintf(", %d resting", p.Resting)
	}
	return words
}

func driftWords(n uint64) string {
	if n == 0 {
		return "none seen"
	}
	return fmt.Sprintf("%d repaired since the start", n)
}
