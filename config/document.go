package config

import (
	"cmp"
	"reflect"
	"slices"
	"strings"
)

// document is the shape of a file. go-toml's strict decoder refuses what does not fit it, and shape is derived from it,
// so that a key is named here and nowhere else.
type document struct {
	Schema int64 `toml:"schema"`
	Node   struct {
		Name     string `toml:"name"`
		Address  string `toml:"address"`
		MTU      int64  `toml:"mtu"`
		StateDir string `toml:"state_dir"`
		RunDir   string `toml:"run_dir"`
		Watch    bool   `toml:"watch"`
	} `toml:"node"`
	Pool []struct {
		Name        string   `toml:"name"`
		CIDR        string   `toml:"cidr"`
		Block       string   `toml:"block"`
		Reserve     []string `toml:"reserve"`
		NATOutgoing bool     `toml:"nat_outgoing"`
		ReuseDelay  span     `toml:"reuse_delay"`
	} `toml:"pool"`
	Endpoint []struct {
		Name    string   `toml:"name"`
		Publish []string `toml:"publish"`
	} `toml:"endpoint"`
	BGP struct {
		ASN             int64          `toml:"asn"`
		RouterID        string         `toml:"router_id"`
		Listen          string         `toml:"listen"`
		Port            int64          `toml:"port"`
		HoldTime        span           `toml:"hold_time"`
		GracefulRestart bool           `toml:"graceful_restart"`
		RestartTime     span           `toml:"restart_time"`
		MaxPrefixes     int64          `toml:"max_prefixes"`
		Peer            []documentPeer `toml:"peer"`
	} `toml:"bgp"`
	Tunnel struct {
		Mode      string `toml:"mode"`
		VNI       int64  `toml:"vni"`
		VXLANPort int64  `toml:"vxlan_port"`
		Accept    string `toml:"accept"`
	} `toml:"tunnel"`
	NAT struct {
		Backend   string `toml:"backend"`
		PortRange string `toml:"port_range"`
		Hairpin   bool   `toml:"hairpin"`
	} `toml:"nat"`
	Docker struct {
		Enable  bool   `toml:"enable"`
		Socket  string `toml:"socket"`
		API     string `toml:"api"`
		Timeout span   `toml:"timeout"`
	} `toml:"docker"`
	Fastpath struct {
		Mode           string `toml:"mode"`
		PinDir         string `toml:"pin_dir"`
		MaxEndpoints   int64  `toml:"max_endpoints"`
		MaxRoutes      int64  `toml:"max_routes"`
		MaxFlows       int64  `toml:"max_flows"`
		MaxConnections int64  `toml:"max_connections"`
	} `toml:"fastpath"`
	Reconcile struct {
		Interval span `toml:"interval"`
	} `toml:"reconcile"`
	Hooks struct {
		OnAttach string `toml:"on_attach"`
		OnDetach string `toml:"on_detach"`
		Timeout  span   `toml:"timeout"`
	} `toml:"hooks"`
	API struct {
		Socket  string `toml:"socket"`
		Metrics string `toml:"metrics"`
	} `toml:"api"`
	Log struct {
		Level  string `toml:"level"`
		Format string `toml:"format"`
	} `toml:"log"`
}

type documentPeer struct {
	Address      string   `toml:"address"`
	Role         string   `toml:"role"`
	ASN          int64    `toml:"asn"`
	PasswordFile string   `toml:"password_file"`
	TTLSecurity  bool     `toml:"ttl_security"`
	Import       []string `toml:"import"`
	Export       []string `toml:"export"`
	HoldTime     span     `toml:"hold_time"`
}

// span is a duration as it is written: a string.
type span string

// defaults are the values of the keys that have one which is the same on every host.
func defaults() map[string]any {
	return map[string]any{
		"schema":                   int64(1),
		"node.mtu":                 int64(0),
		"node.state_dir":           "/var/lib/fairlead",
		"node.run_dir":             "/run/fairlead",
		"node.watch":               false,
		"pool.name":                "default",
		"pool.reserve":             []string{},
		"pool.nat_outgoing":        true,
		"pool.reuse_delay":         "30s",
		"endpoint.publish":         []string{},
		"bgp.asn":                  int64(64512),
		"bgp.port":                 int64(179),
		"bgp.hold_time":            "9s",
		"bgp.graceful_restart":     true,
		"bgp.restart_time":         "120s",
		"bgp.max_prefixes":         int64(10000),
		"bgp.peer.role":            string(RoleMesh),
		"bgp.peer.ttl_security":    false,
		"bgp.peer.import":          []string{"pools"},
		"bgp.peer.export":          []string{"blocks"},
		"tunnel.mode":              "auto",
		"tunnel.vni":               int64(88),
		"tunnel.vxlan_port":        int64(4789),
		"tunnel.accept":            "peers",
		"nat.backend":              "auto",
		"nat.hairpin":              true,
		"docker.socket":            "/run/docker/plugins/fairlead.sock",
		"docker.api":               "/run/docker.sock",
		"docker.timeout":           "5s",
		"fastpath.mode":            string(Auto),
		"fastpath.pin_dir":         "/sys/fs/bpf/fairlead",
		"fastpath.max_endpoints":   int64(4096),
		"fastpath.max_routes":      int64(8192),
		"fastpath.max_flows":       int64(65536),
		"fastpath.max_connections": int64(131072),
		"reconcile.interval":       "60s",
		"hooks.on_attach":          "",
		"hooks.on_detach":          "",
		"hooks.timeout":            "5s",
		"api.metrics":              "127.0.0.1:9478",
		"log.level":                "info",
		"log.format":               "text",
	}
}

// defaultPool is the range of the one pool of a config that names none.
const defaultPool = "10.88.0.0/16"

// kind is what may stand behind a key.
type kind int

const (
	table    kind = iota + 1 // [node]
	tables                   // [[pool]]
	text                     // "a string"
	duration                 // "9s"
	integer                  // 9
	flag                     // true
	list                     // ["a", "b"]
)

// want says what a value of the kind looks like.
func (k kind) want() string {
	return map[kind]string{
		table: "a table", tables: "a list of tables", text: "a string", duration: `a duration in quotes, such as "9s"`,
		integer: "an integer", flag: "true or false", list: "a list of strings",
	}[k]
}

// shape is the kind of every key and table, by its dotted path: "bgp.peer" and "bgp.peer.address".
type shape map[string]kind

func newShape() shape {
	s := shape{}
	s.add("", reflect.TypeFor[document]())
	return s
}

func (s shape) add(prefix string, t reflect.Type) {
	for i := range t.NumField() {
		f := t.Field(i)
		path := join(prefix, f.Tag.Get("toml"))
		s[path] = kindOf(f.Type)
		switch s[path] {
		case table:
			s.add(path, f.Type)
		case tables:
			s.add(path, f.Type.Elem())
		}
	}
}

func kindOf(t reflect.Type) kind {
	switch {
	case t == reflect.TypeFor[span]():
		return duration
	case t.Kind() == reflect.Struct:
		return table
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct:
		return tables
	case t.Kind() == reflect.Slice:
		return list
	case t.Kind() == reflect.Int64:
		return integer
	case t.Kind() == reflect.Bool:
		return flag
	}
	return text
}

// children are the names directly below a table, sorted; only those that are tables themselves when asked so.
func (s shape) children(parent string, onlyTables bool) []string {
	var names []string
	for path, k := range s {
		name, below := strings.CutPrefix(path, join(parent, ""))
		if !below || strings.Contains(name, ".") || onlyTables && k != table && k != tables {
			continue
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// homes are the tables that have a key or table of this name, nearest to the top first, as they are written in a file.
func (s shape) homes(name string, onlyTables bool) []string {
	var found []string
	for path, k := range s {
		parent, last := split(path)
		isTable := k == table || k == tables
		switch {
		case parent == "" || fold(last) != fold(name) || isTable != onlyTables:
		case onlyTables:
			found = append(found, s.header(path))
		default:
			found = append(found, s.header(parent))
		}
	}
	slices.SortFunc(found, func(a, b string) int { return cmp.Or(len(a)-len(b), strings.Compare(a, b)) })
	return found
}

// header is a table as it is written: [node], [[pool]].
func (s shape) header(path string) string {
	if s[path] == tables {
		return "[[" + path + "]]"
	}
	return "[" + path + "]"
}

// listed is the list of tables that a key is part of, or "".
func (s shape) listed(path string) string {
	for parent, _ := split(path); parent != ""; parent, _ = split(parent) {
		if s[parent] == tables {
			return parent
		}
	}
	return ""
}

func join(prefix, name string) string {
	if prefix == "" {
		return name
	}
	return prefix + "." + name
}

func split(path string) (parent, name string) {
	i := strings.LastIndexByte(path, '.')
	if i < 0 {
		return "", path
	}
	return path[:i], path[i+1:]
}
