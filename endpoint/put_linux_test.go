package endpoint_test

import (
	"testing"

	"github.com/fairlead-net/fairlead/endpoint"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"net/netip"
)

var addrs = cmpopts.EquateComparable(netip.Addr{})

func TestPutShowsInListAndInside(t *testing.T) {
	l := newLab(t)
	c := l.container("web")
	r := l.row("web", c, 1)
	l.put(r)
	got, _ := l.list(r)
	if diff := cmp.Diff(r, got, addrs); diff != "" {
		t.Errorf("listed row (-want +got):\n%s", diff)
	}
	t.Log(l.host.IP("-d link show " + r.HostIf))
	t.Log(inside(c))
	drifted, err := l.links.Inspect(t.Context(), []endpoint.Row{r})
	if err != nil || len(drifted) != 0 {
		t.Errorf("Inspect = %v, %v", drifted, err)
	}
}
