package cli

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/fairlead-net/fairlead/agent"
)

// list builds a command that prints one table of the API: get path, decode []T, rows.
func list[T any](a *app, use, short, path, none string, rows func([]T) table) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, GroupID: groupSee, Args: arguments(), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client(readTimeout)
			if err != nil {
				return err
			}
			var items []T
			raw, err := c.get(cmd.Context(), path, &items)
			if err != nil {
				return err
			}
			if !a.format.human() {
				return printRaw(a.out, a.format, raw)
			}
			if len(items) == 0 {
				// On stderr: what counts lines on stdout counts none.
				fmt.Fprintln(a.err, none)
				return nil
			}
			t := rows(items)
			return t.print(a.out, lookOf(a.out))
		},
	}
}

func (a *app) peers() *cobra.Command {
	return list(a, "peers", "BGP neighbours and their sessions", "/v1/peers",
		"no peers: the config has no [[bgp.peer]]", peerTable)
}

func peerTable(peers []agent.Peer) table {
	t := table{columns: []column{
		{title: "ADDRESS"}, {title: "NODE", least: 8, drop: 2}, {title: "AS", right: true, drop: 7}, {title: "ROLE", drop: 4},
		{title: "STATE"}, {title: "UP", right: true}, {title: "RCVD", right: true, drop: 5},
		{title: "USED", right: true, drop: 1}, {title: "SENT", right: true, drop: 6}, {title: "LAST ERROR", least: 10, drop: 3},
	}}
	for _, p := range peers {
		state, up := cell{p.State, toneBad}, "-"
		if p.State == "established" {
			state.tone, up = toneGood, seconds(p.UptimeSeconds)
		}
		t.addCells(plainCell(p.Address.String()), plainCell(p.Node), plainCell(strconv.FormatUint(uint64(p.ASN), 10)),
			plainCell(p.Role), state, plainCell(up), numberCell(p.Received), numberCell(p.Accepted), numberCell(p.Advertised),
			cell{p.LastError, toneWarn})
	}
	return t
}

func (a *app) routes() *cobra.Command {
	return list(a, "routes", "Remote prefixes and the way to each", "/v1/routes",
		"no routes: no peer has announced a prefix", routeTable)
}

func routeTable(routes []agent.Route) table {
	t := table{columns: []column{
		{title: "PREFIX"}, {title: "VIA"}, {title: "ENCAP"}, {title: "DEV", drop: 2}, {title: "MTU", right: true, drop: 3},
		{title: "NODE", least: 8, drop: 4}, {title: "INSTALLED", least: 8}, {title: "FAST PATH", drop: 5},
	}}
	for _, r := range routes {
		installed := cell{"yes", toneGood}
		if !r.Installed {
			installed = cell{"no: " + r.Reason, toneBad}
			if r.Reason == "" {
				installed.text = "no"
			}
		}
		fast := plainCell(r.Fast)
		if r.Slow != "" {
			fast = cell{"no: " + r.Slow, toneWarn}
		}
		mtu := ""
		if r.MTU > 0 {
			mtu = strconv.Itoa(r.MTU)
		}
		t.addCells(plainCell(r.Prefix.String()), plainCell(joined(r.Via)), plainCell(r.Encap), plainCell(r.Dev),
			plainCell(mtu), plainCell(r.Node), installed, fast)
	}
	return t
}

func (a *app) leases() *cobra.Command {
	return list(a, "leases", "Addresses handed out by this host", "/v1/leases", "no leases", leaseTable)
}

func leaseTable(leases []agent.Lease) table {
	t := table{columns: []column{
		{title: "ADDRESS"}, {title: "OWNER", least: 12}, {title: "POOL", least: 7, drop: 1}, {title: "POLICY", drop: 2},
		{title: "AGE", right: true, drop: 3},
	}}
	now := time.Now()
	for _, l := range leases {
		t.add(l.Address.String(), l.Owner, l.Pool, string(l.Policy), age(now, l.Since))
	}
	return t
}

func (a *app) endpoints() *cobra.Command {
	all := list(a, "endpoints [NAME]", "Containers, VMs and namespaces attached to this host", "/v1/endpoints",
		"no endpoints: fairlead attach NAME", endpointTable)
	one := all.RunE
	all.Args = arguments("[NAME]")
	all.ValidArgsFunction = a.completeEndpoints
	all.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return one(cmd, args)
		}
		return a.showEndpoint(cmd, args[0])
	}
	return all
}

func (a *app) showEndpoint(cmd *cobra.Command, name string) error {
	c, err := a.client(readTimeout)
	if err != nil {
		return err
	}
	var e agent.Endpoint
	raw, err := c.get(cmd.Context(), "/v1/endpoints/"+url.PathEscape(name), &e)
	if err != nil {
		return err
	}
	if !a.format.human() {
		return printRaw(a.out, a.format, raw)
	}
	l := lookOf(a.out)
	for _, f := range endpointFacts(e) {
		if _, err := fmt.Fprint(a.out, f.print(l, factIndent)); err != nil {
			return err
		}
	}
	return nil
}

func endpointFacts(e agent.Endpoint) []fact {
	fs := []fact{{"name", e.Name}, {"addresses", strings.ReplaceAll(joined(e.Addresses), ",", " ")}, {"mac", e.MAC}}
	if e.Network != "" {
		fs = append(fs, fact{"network", e.Network})
	}
	fs = append(fs, fact{"netns", e.NetNS}, fact{"interface", e.IfName + " inside, " + e.HostIfName + " on " + e.Node})
	if len(e.Labels) > 0 {
		fs = append(fs, fact{"labels", strings.ReplaceAll(labels(e.Labels), ",", " ")})
	}
	if len(e.Ports) > 0 {
		fs = append(fs, fact{"ports", portWords(e.Ports)})
	}
	return append(fs, fact{"created", e.Created.Format(time.RFC3339)}, fact{"id", e.ID})
}

func endpointTable(endpoints []agent.Endpoint) table {
	t := table{columns: []column{
		{title: "NAME", least: 12}, {title: "ADDRESSES"}, {title: "NETWORK", least: 7, drop: 4},
		{title: "HOST IF", drop: 3}, {title: "NETNS", least: 10, drop: 5}, {title: "LABELS", least: 10, drop: 6},
		{title: "AGE", right: true, drop: 2},
	}}
	now := time.Now()
	for _, e := range endpoints {
		t.add(e.Name, joined(e.Addresses), e.Network, e.HostIfName, e.NetNS, labels(e.Labels), age(now, e.Created))
	}
	return t
}

func numberCell(n int) cell { return plainCell(strconv.Itoa(n)) }

func seconds(n int64) string { return span(time.Duration(n) * time.Second) }

func age(now, then time.Time) string {
	if then.IsZero() {
		return ""
	}
	return span(now.Sub(then))
}

func joined(addresses []netip.Addr) string {
	texts := make([]string, len(addresses))
	for i, a := range addresses {
		texts[i] = a.String()
	}
	return strings.Join(texts, ",")
}

func labels(m map[string]string) string {
	texts := make([]string, 0, len(m))
	for k, v := range m {
		texts = append(texts, k+"="+v)
	}
	slices.Sort(texts)
	return strings.Join(texts, ",")
}
