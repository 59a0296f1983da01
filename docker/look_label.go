package docker

import (
	"maps"
	"slices"
	"strings"

	"github.com/fairlead-net/fairlead/agent"
)

// What the daemon keeps of an endpoint's labels.
const (
	lookLabelsMost = 64
	lookLabelMost  = 1024 // bytes of key and value together
)

// name is the container's own, "" when that is nothing that Docker takes for one. The others are links of other
// containers to it.
func (c engineContainer) name() string {
	for _, n := range c.Names {
		if n = strings.TrimPrefix(n, "/"); agent.PlainName(n) {
			return n
		}
	}
	return ""
}

// lookLabels are a container's labels, with what else Docker says of it. What is too much is left out: first goes what
// neither Docker nor Compose wrote.
func lookLabels(c engineContainer) map[string]string {
	rank := func(key string) int {
		if strings.HasPrefix(key, "com.docker.compose.") {
			return 0
		}
		return 1
	}
	keys := slices.SortedFunc(maps.Keys(c.Labels), func(a, b string) int {
		if d := rank(a) - rank(b); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	labels := make(map[string]string)
	put := func(key, value string) {
		_, known := labels[key]
		if key != "" && !known && len(labels) < lookLabelsMost && len(key)+len(value) <= lookLabelMost {
			labels[key] = value
		}
	}
	put("docker.id", c.ID)
	put("docker.image", c.Image)
	put("docker.name", c.name())
	for _, k := range keys {
		put(k, c.Labels[k])
	}
	return labels
}
