package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/fairlead-net/fairlead/agent"
)

func (a *app) trace() *cobra.Command {
	var live bool
	var count int
	cmd := &cobra.Command{
		Use: "trace SRC DST [PROTO/PORT]", Short: "Foretell the way of packets through this host", GroupID: groupSee,
		Long: "Trace prints the hops of packets from SRC to DST through this host, as its latest pass set them up: links, map entries,\n" +
			"routes, encapsulation, mappings, and by whose address the destination sees them. SRC and DST are addresses, or\n" +
			"names of endpoints of this host. With PROTO/PORT, published ports are followed.\n\n" +
			"With --live it tells of each packet between both that the programs of the fast path see from now on, and what they do\n" +
			"with it. It ends when it is interrupted or after --count packets, with 0, or when the daemon ends, with 1.",
		Example: "  fairlead trace web 10.88.2.7\n  fairlead trace 203.0.113.9 192.0.2.1 tcp/8080\n  fairlead trace web 10.88.2.7 --live --count 10",
		Args:    arguments("SRC", "DST", "[PROTO/PORT]"), ValidArgsFunction: a.completeTrace,
		RunE: func(cmd *cobra.Command, args []string) error {
			query, err := traceQuery(args)
			if err != nil {
				return err
			}
			switch {
			case count < 0 || count > 0 && !live:
				return misusef("--count %d: want a positive number, and --live", count)
			case live:
				return a.watch(cmd, query, count)
			}
			return a.foretell(cmd, query)
		},
	}
	cmd.Flags().BoolVar(&live, "live", false, "follow real packets")
	cmd.Flags().IntVar(&count, "count", 0, "end after so `MANY` packets")
	return cmd
}

func (a *app) foretell(cmd *cobra.Command, query string) error {
	c, err := a.client(readTimeout)
	if err != nil {
		return err
	}
	var t agent.Trace
	raw, err := c.get(cmd.Context(), "/v1/trace?"+query, &t)
	if err != nil {
		return err
	}
	if !a.format.human() {
		return printRaw(a.out, a.format, raw)
	}
	l := lookOf(a.out)
	for _, f := range append(hopFacts(t), traceFacts(t)...) {
		if _, err := fmt.Fprint(a.out, f.print(l, hopIndent(t))); err != nil {
			return err
		}
	}
	return nil
}

// errEnough ends what would go on.
var errEnough = errors.New("enough")

// watch prints packets as they come, so many or until it is interrupted.
func (a *app) watch(cmd *cobra.Command, query string, many int) error {
	c, err := a.client(readTimeout)
	if err != nil {
		return err
	}
	lost := uint32(0)
	err = c.follow(cmd.Context(), "/v1/trace/live?"+query, func(line []byte) error {
		if err := a.printSighting(line, &lost); err != nil {
			return err
		}
		if many--; many == 0 {
			return errEnough
		}
		return nil
	})
	if cmd.Context().Err() != nil || errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// printSighting writes a packet: for people one line, with when, who, what, and its way. That some were lost is told on
// stderr, once for each time.
func (a *app) printSighting(line []byte, lost *uint32) error {
	var s agent.Sighting
	if err := json.Unmarshal(line, &s); err != nil {
		return fmt.Errorf("packet %q is not understood by fairlead %s; is the daemon of another version? %w", line, a.Version, err)
	}
	if s.Lost > *lost {
		fmt.Fprintf(a.err, "%s could not be told of\n", count(int(s.Lost-*lost), "packet"))
		*lost = s.Lost
	}
	switch {
	case a.format == formatYAML:
		fmt.Fprintln(a.out, "---")
		return printYAML(a.out, line)
	case !a.format.human():
		_, err := fmt.Fprintf(a.out, "%s\n", line)
		return err
	}
	_, err := fmt.Fprintf(a.out, "%s  %s > %s  %s  ttl %d  %d bytes  in by %s  %s\n", s.Time.Local().Format("15:04:05.000000"),
		end(s.From, s.FromPort), end(s.To, s.ToPort), visible(s.Proto), s.TTL, s.Length, visible(s.Link), visible(s.Way))
	return err
}

// end is an address with its port, if there is one.
func end(ip netip.Addr, port uint16) string {
	if port == 0 {
		return ip.String()
	}
	return netip.AddrPortFrom(ip, port).String()
}

// hopFacts is the hops beneath titles. They are wrapped and not cut: a way of which an end is missing is none.
func hopFacts(t agent.Trace) []fact {
	fs := []fact{{"WHERE", "WHAT"}}
	for _, h := range t.Hops {
		fs = append(fs, fact{h.Where, h.What})
	}
	return fs
}

func hopIndent(t agent.Trace) int {
	widest := width("seen as")
	for _, h := range t.Hops {
		widest = max(widest, width(h.Where))
	}
	return widest + gutter
}

func traceFacts(t agent.Trace) []fact {
	fs := []fact{{"way", t.Way}}
	if t.MTU > 0 {
		fs = append(fs, fact{"mtu", strconv.Itoa(t.MTU)})
	}
	switch t.Source {
	case "own":
		fs = append(fs, fact{"seen as", "its own address"})
	case "host":
		fs = append(fs, fact{"seen as", "this host's address"})
	}
	return fs
}

// traceQuery is the arguments as the API takes them.
func traceQuery(args []string) (string, error) {
	q := url.Values{"from": {args[0]}, "to": {args[1]}}
	if len(args) > 2 {
		proto, port, err := protoPort(args[2])
		if err != nil {
			return "", err
		}
		q.Set("proto", proto)
		if port != 0 {
			q.Set("port", strconv.Itoa(int(port)))
		}
	}
	return q.Encode(), nil
}

// protoPort reads tcp/80, or icmp.
func protoPort(text string) (proto string, port uint16, err error) {
	proto, number, ported := strings.Cut(text, "/")
	if n, err := strconv.ParseUint(number, 10, 16); err == nil && n > 0 {
		port = uint16(n)
	}
	_, reversed := strconv.Atoi(proto)
	switch {
	case reversed == nil && ported:
		return "", 0, misusef("%q: want %s/%s", text, number, proto)
	case proto == "icmp" && !ported:
		return proto, 0, nil
	case !slices.Contains(tracedProtos(), proto) || port == 0:
		return "", 0, misusef("%q: want tcp/80, udp/53, sctp/9 or icmp", text)
	}
	return proto, port, nil
}

func tracedProtos() []string { return []string{"tcp", "udp", "sctp"} }

// completeTrace offers endpoints for both ends.
func (a *app) completeTrace(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	switch len(args) {
	case 0, 1:
		return complete(a, cmd, endpointNames, args)
	case 2:
		return []string{"tcp/", "udp/", "sctp/", "icmp"}, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	}
	return nil, cobra.ShellCompDirectiveNoFileComp
}
