package cli

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/nat"
)

const aboutSpecs = "A SPEC is [HOSTIP:][HOSTPORT:]PORT[/tcp|udp|sctp]. Without a HOSTPORT a random free port is taken,\n" +
	"and without a HOSTIP the port is taken on every address of this host."

func (a *app) ports() *cobra.Command {
	return list(a, "ports", "Published ports of this host's endpoints", "/v1/ports", "no published ports", portTable)
}

func (a *app) publish() *cobra.Command {
	return &cobra.Command{
		Use: "publish NAME SPEC...", Short: "Lead ports of this host to an endpoint", GroupID: groupUse,
		Long:    "Publish prints the ports of the host, which nobody else can have from then on.\n" + aboutSpecs,
		Example: "  fairlead publish web 8080:80 443\n  fairlead publish dns 192.0.2.1:53:53/udp",
		Args:    arguments("NAME", "SPEC..."), ValidArgsFunction: a.completeFirst(endpointNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			specs, err := parseSpecs(args[1:])
			if err != nil {
				return misusef("%v", err)
			}
			var ports []agent.Port
			raw, err := a.askForPorts(cmd, "/v1/ports", args, &ports)
			if err != nil {
				return about("publish for "+args[0], err)
			}
			if !a.format.human() {
				return printRaw(a.out, a.format, raw)
			}
			t := portTable(slices.DeleteFunc(ports, func(p agent.Port) bool { return !anyAsks(specs, p) }))
			return t.print(a.out, lookOf(a.out))
		},
	}
}

func (a *app) unpublish() *cobra.Command {
	return &cobra.Command{
		Use: "unpublish NAME SPEC...", Short: "Give ports of this host back", GroupID: groupUse,
		Long:    "Unpublish prints what the endpoint has left. A port that was not published is given back already.",
		Example: "  fairlead unpublish web 8080:80/tcp",
		Args:    arguments("NAME", "SPEC..."), ValidArgsFunction: a.completePublished,
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := parseSpecs(args[1:]); err != nil {
				return misusef("%v", err)
			}
			c, err := a.client(attachTimeout)
			if err != nil {
				return err
			}
			var left []agent.Port
			var raw []byte
			for _, spec := range args[1:] {
				left = nil
				path := "/v1/ports?" + url.Values{"endpoint": {args[0]}, "spec": {spec}}.Encode()
				if raw, err = c.call(cmd.Context(), http.MethodDelete, path, nil, &left); err != nil {
					return about("unpublish for "+args[0], err)
				}
			}
			return a.printLeft(args[0], left, raw)
		},
	}
}

func (a *app) printLeft(name string, left []agent.Port, raw []byte) error {
	switch {
	case !a.format.human():
		return printRaw(a.out, a.format, raw)
	case len(left) == 0:
		fmt.Fprintf(a.err, "%s has no published ports left\n", visible(name))
		return nil
	}
	t := portTable(left)
	return t.print(a.out, lookOf(a.out))
}

func (a *app) env() *cobra.Command {
	return &cobra.Command{
		Use: "env NAME", Short: "Print what an endpoint must know of its ports, for --env-file", GroupID: groupUse,
		Long: "Env prints this host's address and the ports of the host that lead to the endpoint, a KEY=value each line.",
		Args: arguments("NAME"), ValidArgsFunction: a.completeFirst(endpointOrReservation),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client(readTimeout)
			if err != nil {
				return err
			}
			var vs []agent.Variable
			raw, err := c.get(cmd.Context(), "/v1/env/"+url.PathEscape(args[0]), &vs)
			if err != nil {
				return about("env "+args[0], err)
			}
			return a.printVariables(vs, raw)
		},
	}
}

func (a *app) reserve() *cobra.Command {
	return &cobra.Command{
		Use: "reserve NAME SPEC...", Short: "Take ports for an endpoint that is not there yet", GroupID: groupUse,
		Long: "Reserve prints what env will, so that a container knows its ports from its first instruction on.\n" +
			"The endpoint that is attached with this name gets them.\n" + aboutSpecs,
		Example: "  docker run --env-file <(fairlead reserve web 80/tcp) --name web ...",
		Args:    arguments("NAME", "SPEC..."), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := parseSpecs(args[1:]); err != nil {
				return misusef("%v", err)
			}
			var vs []agent.Variable
			raw, err := a.askForPorts(cmd, "/v1/reservations", args, &vs)
			if err != nil {
				return about("reserve for "+args[0], err)
			}
			return a.printVariables(vs, raw)
		},
	}
}

// printVariables prints nothing else on stdout: it is read by what starts containers.
func (a *app) printVariables(vs []agent.Variable, raw []byte) error {
	if !a.format.human() {
		return printRaw(a.out, a.format, raw)
	}
	var b strings.Builder
	for _, v := range vs {
		b.WriteString(visible(v.Name+"="+v.Value) + "\n")
	}
	_, err := fmt.Fprint(a.out, b.String())
	return err
}

// askForPorts sends a name and its SPECs.
func (a *app) askForPorts(cmd *cobra.Command, path string, args []string, into any) ([]byte, error) {
	c, err := a.client(attachTimeout)
	if err != nil {
		return nil, err
	}
	return c.call(cmd.Context(), http.MethodPost, path, agent.PortsRequest{Endpoint: args[0], Specs: args[1:]}, into)
}

// parseSpecs finds a slip of the hand before the daemon is asked.
func parseSpecs(texts []string) ([]nat.Spec, error) {
	var all []nat.Spec
	for _, text := range texts {
		specs, err := nat.ParseSpec(text)
		if err != nil {
			return nil, err
		}
		all = append(all, specs...)
	}
	return all, nil
}

// anyAsks tells whether a port is what one of the SPECs asks for.
func anyAsks(specs []nat.Spec, p agent.Port) bool {
	return slices.ContainsFunc(specs, func(s nat.Spec) bool {
		return s.Port == p.Port && s.Proto == p.Proto && (!s.HostIP.IsValid() || s.HostIP == p.HostIP) &&
			(s.HostPort == 0 || s.HostPort <= p.HostPort && p.HostPort <= s.HostLast)
	})
}

func portTable(ports []agent.Port) table {
	t := table{columns: []column{
		{title: "ENDPOINT", least: 12}, {title: "HOST"}, {title: "PORT"}, {title: "STATE", drop: 1}, {title: "BACKEND", drop: 2},
	}}
	for _, p := range ports {
		state := cell{p.State, toneWarn}
		if p.State == "mapped" {
			state.tone = toneGood
		}
		t.addCells(plainCell(p.Endpoint), plainCell(hostWords(p)), plainCell(strconv.Itoa(int(p.Port))+"/"+p.Proto), state, plainCell(p.Backend))
	}
	return t
}

// hostWords is like 0.0.0.0:8080 for a port of every address.
func hostWords(p agent.Port) string { return netip.AddrPortFrom(p.HostIP, p.HostPort).String() }

func portWords(ports []agent.Port) string {
	words := make([]string, len(ports))
	for i, p := range ports {
		words[i] = fmt.Sprintf("%s:%d/%s", hostWords(p), p.Port, p.Proto)
	}
	return strings.Join(words, " ")
}

// spec is the SPEC that names a published port again. What is published on every address has a port in each family, and
// one SPEC for both.
func spec(p agent.Port) string {
	s := nat.Spec{HostIP: p.HostIP, HostPort: p.HostPort, HostLast: p.HostPort, Port: p.Port, Proto: p.Proto}
	if s.HostIP.IsUnspecified() {
		s.HostIP = netip.Addr{}
	}
	return s.String()
}
