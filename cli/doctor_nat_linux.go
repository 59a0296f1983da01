package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
)

// probeNAT puts one rule of each sort that published ports and the way out need into the packet filter of this thread's
// namespace, which nobody else sees, and says why that does not work, "" when it does.
func probeNAT(family int) string {
	ctx, cancel := context.WithTimeout(context.Background(), 2*toolTimeout)
	defer cancel()
	tool, pool, loop, to := "iptables", "10.88.0.0/16", "127.0.0.0/8", "10.88.0.1:80"
	if family == 6 {
		tool, pool, loop, to = "ip6tables", "2001:db8::/64", "::1/128", "[2001:db8::1]:80"
	}
	for _, rule := range [][]string{
		{"-t", "nat", "-A", "PREROUTING", "-p", "tcp", "-m", "tcp", "--dport", "8080", "-j", "DNAT", "--to-destination", to},
		{"-t", "nat", "-A", "POSTROUTING", "-s", pool, "-j", "MASQUERADE", "--random-fully"},
		{"-A", "INPUT", "-d", loop, "-m", "conntrack", "!", "--ctstate", "RELATED,ESTABLISHED", "-j", "DROP"},
	} {
		// The lock of the old back end is one for all namespaces: others may be at work.
		_, err := ask(ctx, tool, append([]string{"-w", "4"}, rule...)...)
		switch {
		case errors.Is(err, exec.ErrNotFound):
			return fmt.Sprintf("%s %s", tool, notInstalled)
		case err != nil:
			return err.Error()
		}
	}
	return ""
}

func lookAtMounts() mounts {
	text, _ := os.ReadFile("/proc/thread-self/mountinfo")
	return parseMounts(string(text))
}
