package docker

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/ipam"
)

// Options of a network. mtuLabel is every driver's.
const (
	optionPrefix  = "fairlead."
	optionPool    = "fairlead.pool"
	optionMTU     = "fairlead.mtu"
	optionNAT     = "fairlead.nat"
	optionIsolate = "fairlead.isolate"
	mtuLabel      = "com.docker.network.driver.mtu"
)

// read puts what the options say into n, whose subnets are there.
func (o networkOptions) read(pools []ipam.Pool, n *agent.Network) error {
	if err := o.readChoices(n); err != nil {
		return err
	}
	least := 68 // RFC 791
	if o.IPv6 || slices.ContainsFunc(n.Subnets, func(s agent.Subnet) bool { return s.CIDR.Addr().Is6() }) {
		least = 1280 // RFC 8200 section 5
	}
	for _, name := range []string{mtuLabel, optionMTU} {
		text, given := o.Generic[name]
		if !given {
			continue
		}
		mtu, err := strconv.Atoi(text)
		if err != nil || mtu < least || mtu > 65535 {
			return fmt.Errorf("option %s=%s: want %d to 65535 bytes", name, text, least)
		}
		n.MTU = mtu
	}
	return o.checkPools(pools, n.Subnets)
}

func (o networkOptions) readChoices(n *agent.Network) error {
	n.Internal = o.Internal
	for _, name := range slices.Sorted(maps.Keys(o.Generic)) {
		value := o.Generic[name]
		switch {
		case !strings.HasPrefix(name, optionPrefix) || name == optionPool || name == optionMTU:
		case name != optionNAT && name != optionIsolate:
			return fmt.Errorf("option %s is unknown: there are %s", name,
				strings.Join([]string{optionPool, optionMTU, optionNAT, optionIsolate}, ", "))
		case value != "on" && value != "off":
			return fmt.Errorf("option %s=%s: want on or off", name, value)
		case name == optionIsolate:
			n.Isolated = value == "on"
		case value == "on":
			n.Outgoing = agent.OutgoingHidden
		default:
			n.Outgoing = agent.OutgoingSeen
		}
	}
	return nil
}

// checkPools holds the subnets against the pools that were named.
func (o networkOptions) checkPools(pools []ipam.Pool, subnets []agent.Subnet) error {
	text, given := o.Generic[optionPool]
	if !given {
		return nil
	}
	var chosen []ipam.Pool
	for name := range strings.SplitSeq(text, ",") {
		name = strings.TrimSpace(name)
		i := slices.IndexFunc(pools, func(p ipam.Pool) bool { return p.Name == name })
		if i < 0 {
			return fmt.Errorf("option %s=%s: %w: %q; the config has %s", optionPool, text, ipam.ErrNoPool, name, poolNames(pools))
		}
		chosen = append(chosen, pools[i])
	}
	for _, s := range subnets {
		if len(poolsAround(chosen, s.CIDR)) == 0 {
			return fmt.Errorf("option %s=%s: subnet %s is of %s", optionPool, text, s.CIDR, poolNames(poolsAround(pools, s.CIDR)))
		}
	}
	return nil
}

func poolNames(pools []ipam.Pool) string {
	names := make([]string, 0, len(pools))
	for _, p := range pools {
		names = append(names, p.Name)
	}
	if len(names) == 0 {
		return "no pool"
	}
	return strings.Join(names, ", ")
}
