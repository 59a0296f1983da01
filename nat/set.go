package nat

import (
	"fmt"
	"net/netip"
	"strings"
)

// setPrefix begins the names of our sets of addresses, and of nobody else's.
const setPrefix = "fairlead-"

// Member is an address in a set of ours, which rules of the packet filter ask for. With the unspecified address it is the
// set itself, for addresses of that family: a set that is wanted to be empty has that row alone.
type Member struct {
	Set string // begins with "fairlead-", at most 31 bytes
	IP  netip.Addr
}

func (m Member) String() string {
	if m.whole() {
		return m.Set
	}
	return fmt.Sprintf("%v in %s", m.IP, m.Set)
}

// whole tells the row of the set itself from the rows of what is in it.
func (m Member) whole() bool { return m.IP.IsUnspecified() }

// set is the row of the set that m is in, which m itself may be.
func (m Member) set() Member {
	if m.IP.Is4() {
		return Member{m.Set, netip.IPv4Unspecified()}
	}
	return Member{m.Set, netip.IPv6Unspecified()}
}

func (m Member) check() error {
	if !strings.HasPrefix(m.Set, setPrefix) || len(m.Set) > 31 {
		return fmt.Errorf("the name %q is none of ours", m.Set)
	}
	return nil
}

// Fault is what is wrong with a row as the kernel has it, in one word. Rows that are wanted have none.
type Fault string
