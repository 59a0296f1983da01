package cli

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/agent"
)

// TestRemarks: one cure for each kind, and no flood when a whole rack is down.
func TestRemarks(t *testing.T) {
	s := agent.Status{Ready: true, ConfigError: "f.toml:3:1: no", Drained: true, Peers: agent.PeerCount{Configured: 9}}
	s.Problems = []string{"the changed config was refused, the old one is in force: f.toml:3:1: no"}
	for i := range 9 {
		s.Problems = append(s.Problems, fmt.Sprintf("peer 192.0.2.%d is not established (active)", i))
	}
	s.Problems = append(s.Problems, "route 10.88.2.0/24 via 192.0.2.2 is not used: next-hop-unreachable",
		"port 0.0.0.0:8080/tcp of web is held by another program")
	var got []string
	for _, r := range remarks(s) {
		got = append(got, r.text+" > "+r.cure)
	}
	want := []string{
		"the changed config was refused, the old one is in force: f.toml:3:1: no > fairlead check, then fairlead reload",
		"peer 192.0.2.0 is not established (active) > fairlead peers",
		"peer 192.0.2.1 is not established (active) > fairlead peers",
		"peer 192.0.2.2 is not established (active) > fairlead peers",
		"peer 192.0.2.3 is not established (active) > fairlead peers",
		"peer 192.0.2.4 is not established (active) > fairlead peers",
		"and 4 more of these > fairlead peers",
		"route 10.88.2.0/24 via 192.0.2.2 is not used: next-hop-unreachable > fairlead routes",
		"port 0.0.0.0:8080/tcp of web is held by another program > fairlead ports",
		"drained: the peers send no traffic here > systemctl restart fairlead",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
