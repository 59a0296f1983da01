package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/fairlead-net/fairlead/nettest"
)

// paper is what a person reads.
type paper struct {
	out    io.Writer
	colour bool
	faults int
}

// tone is an SGR parameter of ECMA-48.
type tone string

const (
	bold  tone = "1"
	dim   tone = "2"
	red   tone = "31"
	green tone = "32"
	blue  tone = "36"
)

// newPaper uses colour on a terminal only, and not where NO_COLOR is set.
func newPaper(f *os.File) *paper {
	plain := os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" || os.Getenv("TERM") == ""
	return &paper{out: f, colour: !plain && term.IsTerminal(int(f.Fd()))}
}

func (p *paper) paint(t tone, s string) string {
	if !p.colour {
		return s
	}
	return "\x1b[" + string(t) + "m" + s + "\x1b[0m"
}

func (p *paper) line(format string, args ...any) { fmt.Fprintf(p.out, format+"\n", args...) }

func (p *paper) title(s string) { p.line("%s\n", p.paint(bold, s)) }

// section begins a new part.
func (p *paper) section(format string, args ...any) {
	p.line("\n%s\n", p.paint(bold, fmt.Sprintf(format, args...)))
}

// done says that a step succeeded.
func (p *paper) done(format string, args ...any) {
	p.line("%s %s", p.paint(green, "✓"), fmt.Sprintf(format, args...))
}

// fault says what is not as it should be; the demonstration goes on, and fails at its end.
func (p *paper) fault(what any) {
	p.faults++
	fmt.Fprintf(os.Stderr, "\ndemo: %v\n", what)
}

// command shows what was run on a host.
func (p *paper) command(host, text string) {
	p.line("\n%s %s\n", p.paint(dim, host+" #"), p.paint(bold, text))
}

// quote shows what a program printed.
func (p *paper) quote(text string) {
	for line := range strings.Lines(strings.TrimRight(text, "\n")) {
		p.line("%s", strings.TrimRight("  "+line, " \n"))
	}
}

// picture shows how the hosts are wired.
func (p *paper) picture(l *nettest.Lab) {
	n := func(i int, gap string) string {
		return p.paint(bold, l.Nodes[i].Name) + " " + l.Nodes[i].Address().String() + gap
	}
	p.line("")
	p.line("  %s─┐                                             ┌─ %s", n(0, " "), n(2, ""))
	p.line("                ├─ 192.0.2.0/24 ── router ── 198.51.100.0/24 ─┤")
	p.line("  %s─┘                                             └─ %s", n(1, " "), n(3, ""))
}

// kept says how to use a lab that is left standing.
func (p *paper) kept(l *nettest.Lab, containers []*nettest.Container, binary string) {
	first, last := containers[0], containers[len(containers)-1]
	n := l.Nodes[0]
	p.section("The lab stays. Enter it:")
	p.line("  nsenter --net=%s bash            # host %s; also n2, n3, n4, router", n.Path, n.Name)
	p.line("  nsenter --net=%s bash           # container %s; also n1b, n2a … n4b", first.Path, first.Endpoint)
	p.line("  nsenter --net=%s ping -c3 %s", first.Path, last.IP4)
	p.line("  %s --socket %s status", binary, n.Socket())
	p.line("\nTake it down:\n\n  go run ./nettest/demo --down")
}
