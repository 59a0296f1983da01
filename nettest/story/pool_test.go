package story_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/nettest"
)

// The pool is wide and holds the subnet of two of the hosts: what these send of their own must not pass for a container's.
func TestAPoolMayHoldTheUnderlay(t *testing.T) {
	const wide = "198.51.0.0/16"
	l := lab(t, nettest.LabOptions{Pools: []string{wide}, RPFilter: 1, HoldTime: 9 * time.Second})
	for i, n := range l.Nodes {
		cidr := fmt.Sprintf("cidr = %q\n", wide)
		n.WriteConfig(strings.Replace(n.Config(), cidr, fmt.Sprintf("%sblock = \"198.51.%d.0/24\"\n", cidr, i+1), 1))
	}
	l.Start()
	all := l.AttachAll(1)
	for _, c := range all {
		c.Serve(c.IP4)
	}
	for _, from := range all {
		for _, to := range all {
			if from != to {
				nettest.Eventually(t, soon, func() error { return reaches(from, to.IP4) })
			}
		}
	}
	for _, from := range l.Nodes {
		for _, to := range l.Nodes {
			if _, err := from.Try("ping", "-c1", "-W2", to.Address().String()); from != to && err != nil {
				t.Errorf("%s does not reach %s itself: %v", from.Name, to.Name, err)
			}
		}
	}
}
