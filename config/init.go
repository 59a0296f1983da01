package config

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
)

// Facts are what is known of a host when its first config is written. What is zero is left to the defaults.
type Facts struct {
	Name    string
	Address netip.Addr
	Pools   []netip.Prefix
	Peers   []netip.Addr // the other nodes
}

// Init is the text of a short commented config for a host.
func Init(f Facts) string {
	var b strings.Builder
	b.WriteString("# Fairlead. All keys and their defaults: config.example.toml; `fairlead check` finds mistakes.\n")
	b.WriteString("\n[node]\n")
	fact(&b, "name", f.Name, f.Name != "", "unset: the host's name")
	fact(&b, "address", f.Address, f.Address.IsValid(), "unset: the source address of the default route")
	pools := f.Pools
	if len(pools) == 0 {
		pools = []netip.Prefix{netip.MustParsePrefix(defaultPool)}
	}
	for i, p := range pools {
		b.WriteString("\n[[pool]] # the same on every host; each takes a block of it\n")
		fact(&b, "name", poolName(i, p), true, "")
		fact(&b, "cidr", p, true, "")
	}
	if len(f.Peers) == 0 {
		b.WriteString("\n# One for each other host.\n#[[bgp.peer]]\n#address = \"192.0.2.2\"\n")
	}
	for _, p := range f.Peers {
		b.WriteString("\n[[bgp.peer]]\n")
		fact(&b, "address", p, true, "")
	}
	return b.String()
}

// fact writes one key, as a comment when its value is not known.
func fact(b *strings.Builder, key string, value any, known bool, comment string) {
	if !known {
		fmt.Fprintf(b, "#%s = \"\" # %s\n", key, comment)
		return
	}
	// JSON escapes exactly as a basic string of TOML does.
	text, err := json.Marshal(fmt.Sprint(value))
	if err != nil {
		text = []byte(`""`)
	}
	fmt.Fprintf(b, "%s = %s\n", key, text)
}

// poolName is "default" for the first pool, and tells the family or the count of the others.
func poolName(i int, p netip.Prefix) string {
	switch {
	case i == 0:
		return "default"
	case i == 1 && p.Addr().Is6():
		return "default6"
	}
	return fmt.Sprintf("pool%d", i+1)
}
