package cli

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/fairlead-net/fairlead/agent"
)

// maxIfName is IFNAMSIZ less its zero byte, from linux/if.h.
const maxIfName = 15

func (a *app) attach() *cobra.Command {
	var f attachFlags
	cmd := &cobra.Command{
		Use:   "attach NAME",
		Short: "Give a container or namespace an address and a way out",
		Long: "Attach joins a network namespace to this host's network. Without --netns or --pid it is /run/netns/NAME.\n" +
			"Attaching the same again changes nothing and prints the same addresses.",
		Example: "  fairlead attach web1\n  fairlead attach web1 --pid 4711 --ip 10.88.1.7 --label app=web\n" +
			"  fairlead attach web1 --publish 8080:80 --publish 53/udp",
		GroupID: groupUse, Args: arguments("NAME"), ValidArgsFunction: a.completeFirst(namespaces),
		RunE: func(cmd *cobra.Command, args []string) error {
			req, err := f.request(args[0], cmd.Flags().Changed("pid"))
			if err != nil {
				return err
			}
			return a.doAttach(cmd, req)
		},
	}
	f.define(cmd)
	a.completeFlag(cmd, "pool", pools)
	a.completeFlag(cmd, "network", networks)
	a.completeFlag(cmd, "netns", namespaces)
	return cmd
}

// attachFlags are the flags of attach as they were typed.
type attachFlags struct {
	netns, network, pool, ifname string
	pid                          int
	ips, labels, publish         []string
}

func (f *attachFlags) define(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.netns, "netns", "", "`NAMESPACE`: a path, or a name below /run/netns")
	fs.IntVar(&f.pid, "pid", 0, "namespace of the process `PID`")
	fs.StringVar(&f.network, "network", "", "`NETWORK` to join")
	fs.StringVar(&f.pool, "pool", "", "`POOL` to take an address from (default: the first of each family)")
	fs.StringArrayVar(&f.ips, "ip", nil, "`ADDRESS` wanted, one of each family at most")
	fs.StringVar(&f.ifname, "ifname", "eth0", "`NAME` of the interface inside")
	fs.StringArrayVar(&f.labels, "label", nil, "label, as `KEY=VALUE`; may be repeated")
	fs.StringArrayVar(&f.publish, "publish", nil, "port to publish, as `[HOSTIP:][HOSTPORT:]PORT[/PROTO]`; may be repeated")
}

// request checks what can be checked without the daemon.
func (f *attachFlags) request(name string, pidGiven bool) (agent.AttachRequest, error) {
	req := agent.AttachRequest{Name: name, Network: f.network, Pool: f.pool, IfName: f.ifname, PID: f.pid}
	switch {
	case f.netns != "" && pidGiven:
		return req, misusef("--netns and --pid exclude each other")
	case pidGiven && f.pid < 1:
		return req, misusef("--pid %d: not a process", f.pid)
	case !goodIfName(f.ifname):
		return req, misusef("--ifname %q: an interface name has 1 to %d characters, and no space or slash", f.ifname, maxIfName)
	}
	var err error
	if req.NetNS, err = namespacePath(f.netns); err != nil {
		return req, err
	}
	if req.IPs, err = parseIPs(f.ips); err != nil {
		return req, err
	}
	if _, err := parseSpecs(f.publish); err != nil {
		return req, misusef("--publish: %v", err)
	}
	req.Publish = f.publish
	req.Labels, err = parseLabels(f.labels)
	return req, err
}

func goodIfName(s string) bool {
	return s != "" && s != "." && s != ".." && len(s) <= maxIfName && !strings.ContainsAny(s, "/: \t\n\v\f\r")
}

// namespacePath makes a path that the daemon, which runs elsewhere, understands. A bare name is left as it is.
func namespacePath(s string) (string, error) {
	if !strings.Contains(s, "/") {
		return s, nil
	}
	path, err := filepath.Abs(s)
	if err != nil {
		return "", fmt.Errorf("find %s: %w", s, err)
	}
	return path, nil
}

func parseIPs(texts []string) ([]netip.Addr, error) {
	var ips []netip.Addr
	for _, s := range texts {
		ip, err := netip.ParseAddr(s)
		if err != nil || ip.Zone() != "" {
			return nil, misusef("--ip %q: want an address such as 10.88.1.7 or 2001:db8:88::7", s)
		}
		ip = ip.Unmap()
		for _, other := range ips {
			if other.Is4() == ip.Is4() {
				return nil, misusef("--ip %s and --ip %s: one address of each family at most", other, ip)
			}
		}
		ips = append(ips, ip)
	}
	return ips, nil
}

func parseLabels(texts []string) (map[string]string, error) {
	if len(texts) == 0 {
		return nil, nil
	}
	m := make(map[string]string, len(texts))
	for _, s := range texts {
		k, v, ok := strings.Cut(s, "=")
		if !ok || k == "" {
			return nil, misusef("--label %q: want KEY=VALUE", s)
		}
		if old, twice := m[k]; twice && old != v {
			return nil, misusef("--label %s: given twice, as %q and %q", k, old, v)
		}
		m[k] = v
	}
	return m, nil
}

func (a *app) doAttach(cmd *cobra.Command, req agent.AttachRequest) error {
	c, err := a.client(attachTimeout)
	if err != nil {
		return err
	}
	var e agent.Endpoint
	raw, err := c.call(cmd.Context(), http.MethodPost, "/v1/endpoints", req, &e)
	if err != nil {
		return about("attach "+req.Name, err)
	}
	if !a.format.human() {
		return printRaw(a.out, a.format, raw)
	}
	fmt.Fprintln(a.out, visible(strings.TrimSpace(e.Name+" "+strings.ReplaceAll(joined(e.Addresses), ",", " "))))
	if len(e.Ports) == 0 {
		return nil
	}
	t := portTable(e.Ports)
	return t.print(a.out, lookOf(a.out))
}

func (a *app) detach() *cobra.Command {
	return &cobra.Command{
		Use:     "detach NAME...",
		Short:   "Take endpoints off the network and free their addresses",
		Long:    "Detach is done when the endpoint is gone; one that was not there is gone already.",
		GroupID: groupUse, Args: arguments("NAME..."), ValidArgsFunction: a.completeEndpoints,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client(attachTimeout)
			if err != nil {
				return err
			}
			for _, name := range args {
				var done struct{}
				raw, err := c.call(cmd.Context(), http.MethodDelete, "/v1/endpoints/"+url.PathEscape(name), nil, &done)
				if err != nil {
					return about("detach "+name, err)
				}
				if err := a.say(raw, name); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// say prints an answer as it came, or in words for a person.
func (a *app) say(raw []byte, words string) error {
	if !a.format.human() {
		return printRaw(a.out, a.format, raw)
	}
	_, err := fmt.Fprintln(a.out, visible(words))
	return err
}
