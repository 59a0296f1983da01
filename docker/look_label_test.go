package docker

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/agent"
)

// TestLookLabels keeps what tells containers from one another, and no more than fits.
func TestLookLabels(t *testing.T) {
	many := map[string]string{"com.docker.compose.service": "web", "": "nameless", "docker.name": "other"}
	for i := range 200 {
		many[fmt.Sprintf("a%03d", i)] = "x"
	}
	many["a"] = strings.Repeat("x", lookLabelMost)
	c := engineContainer{ID: "c0", Image: "bb", Names: []string{"/db/web", "/web"}, Labels: many}
	got := lookLabels(c)
	want := map[string]string{"docker.id": "c0", "docker.image": "bb", "docker.name": "web", "com.docker.compose.service": "web"}
	for i := 0; len(want) < lookLabelsMost; i++ {
		want[fmt.Sprintf("a%03d", i)] = "x"
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestLookNames(t *testing.T) {
	cases := map[string]bool{
		"web": true, "Web_1.2-3": true, "1": true, strings.Repeat("a", 128): true,
		"": false, "_web": false, "-web": false, ".web": false, "a b": false, "a/b": false, "ä": false, "a\n": false,
		strings.Repeat("a", 129): false,
	}
	for name, want := range cases {
		if got := agent.PlainName(name); got != want {
			t.Errorf("%q: %t", name, got)
		}
		c := engineContainer{Names: []string{"/" + name}}
		if got := c.name() != ""; got != want {
			t.Errorf("container %q is called %q", name, c.name())
		}
	}
}
