package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// level is how grave a finding is.
type level string

const (
	levelOK   level = "ok"
	levelWarn level = "warn" // works now, and will hurt, or could not be found out
	levelFail level = "fail" // does not work
)

// finding is one thing that the doctor looked at. The field names are stable.
type finding struct {
	Check   string `json:"check"`
	Level   level  `json:"level"`
	Message string `json:"message"`
	Fix     string `json:"fix"` // the command that mends it, "" where nothing is to be done
}

func fine(format string, args ...any) finding {
	return finding{Level: levelOK, Message: fmt.Sprintf(format, args...)}
}

func warning(fix, format string, args ...any) finding {
	return finding{Level: levelWarn, Message: fmt.Sprintf(format, args...), Fix: fix}
}

func failure(fix, format string, args ...any) finding {
	return finding{Level: levelFail, Message: fmt.Sprintf(format, args...), Fix: fix}
}

// examination judges one side of the gathered facts. It asks nothing itself, and says nothing of what is not known.
type examination struct {
	check string
	judge func(*hostFacts) []finding
}

func examinations() []examination {
	return []examination{
		{"daemon", judgeDaemon},
		{"config", judgeConfig},
		{"privileges", judgePrivileges},
		{"kernel", judgeKernel},
		{"links", judgeProbes},
		{"strangers", judgeGuard},
		{"underlay", judgeUnderlay},
		{"mtu", judgeMTU},
		{"offload", judgeOffload},
		{"fast path", judgeFast},
		{"pools", judgePools},
		{"forwarding", judgeForwarding},
		{"ipv6", judgeIPv6},
		{"rp_filter", judgeRPFilter},
		{"firewall", judgeFirewall},
		{"nat", judgeNAT},
		{"held ports", judgeHolds},
		{"docker", judgeDocker},
		{"neighbours", judgeNeighbours},
		{"ports", judgePorts},
		{"networkmanager", judgeNetworkManager},
		{"networkd", judgeNetworkd},
		{"files", judgeFiles},
		{"disk", judgeDisk},
		{"open files", judgeOpenFiles},
		{"clock", judgeClock},
	}
}

// diagnose runs every examination over the same facts.
func diagnose(f *hostFacts) []finding {
	all := []finding{}
	for _, e := range examinations() {
		for _, found := range e.judge(f) {
			found.Check = e.check
			all = append(all, found)
		}
	}
	return all
}

func (a *app) doctor() *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Check this host, and name the command that mends each finding", GroupID: groupHost,
		Long: "Doctor looks at the kernel, its settings, the firewall and the neighbours of the daemon, before the first\n" +
			"start and at any time after. It changes nothing. The exit code is 1 when something fails.",
		Args: arguments(), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			facts, err := a.gather(cmd.Context())
			if err != nil {
				return fmt.Errorf("doctor: %w", err)
			}
			found := diagnose(facts)
			if a.format.human() {
				fmt.Fprint(a.out, report(found, lookOf(a.out)))
			} else if err := printValue(a.out, a.format, found); err != nil {
				return err
			}
			if slices.ContainsFunc(found, func(f finding) bool { return f.Level == levelFail }) {
				return errReported
			}
			return nil
		},
	}
}

const reportIndent = 22 // columns before the messages: level, check and the spaces after each

// report is what is wrong, worst first, and then what is well in a few lines.
func report(found []finding, l look) string {
	var b strings.Builder
	n := make(map[level]int)
	for _, lv := range []struct {
		level level
		tone  tone
	}{{levelFail, toneBad}, {levelWarn, toneWarn}, {levelOK, toneGood}} {
		for _, f := range found {
			if f.Level == lv.level {
				n[f.Level]++
				b.WriteString(f.print(l, lv.tone))
			}
		}
	}
	fmt.Fprintf(&b, "\n%s, %s, %d ok\n", count(n[levelFail], "failure"), count(n[levelWarn], "warning"), n[levelOK])
	return b.String()
}

func (f finding) print(l look, t tone) string {
	var b strings.Builder
	head := fmt.Sprintf("%-6s%-*s", f.Level, reportIndent-6, f.Check)
	lines := l.wrap(visible(strings.ReplaceAll(f.Message, "\n", "; ")), reportIndent)
	fmt.Fprintf(&b, "%s%s%s\n", l.paint(t, head[:6]), head[6:], lines[0])
	for _, line := range lines[1:] {
		fmt.Fprintf(&b, "%*s%s\n", reportIndent, "", line)
	}
	if f.Fix != "" {
		// Never wrapped: it is there to be copied.
		fmt.Fprintf(&b, "%*s%s %s\n", 6, "", l.paint(toneDim, "fix:"), visible(f.Fix))
	}
	return b.String()
}
