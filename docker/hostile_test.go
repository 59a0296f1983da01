package docker_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// hostileStage is a host in the midst of a recording.
type hostileStage struct {
	host   *driverHost
	server *driverServer
	calls  []hostileCall // one of each kind that the engine has sent
}

type hostileCall struct {
	path string
	body []byte
}

// hostileHost replays a recording up to where containers of all kinds run.
func hostileHost(t *testing.T, e replayEngine, timeout time.Duration) hostileStage {
	t.Helper()
	stage := hostileStage{host: newDriverHost()}
	stage.server = serveDriver(t, stage.host, timeout)
	chosen, kinds := replayChosen{}, map[string][]byte{}
	for _, step := range e.Steps {
		if strings.HasPrefix(step.Does, "docker network connect") {
			break
		}
		body := chosen.fill(t, step.Request)
		_, answer := stage.server.post(t, step.Call, body)
		var want, got any
		if err := json.Unmarshal(step.Want, &want); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(answer, &got); err != nil {
			t.Fatal(err)
		}
		if err := chosen.match(want, got); err != nil {
			t.Fatal(err)
		}
		refused := hostileRefused(200, answer)
		if had := kinds[step.Call]; body != nil && !refused && (had == nil || len(body) > len(had)) {
			kinds[step.Call] = body
		}
	}
	for _, end := range []string{"RevokeExternalConnectivity", "Leave", "DeleteEndpoint", "DeleteNetwork"} {
		kinds["NetworkDriver."+end] = kinds["NetworkDriver.EndpointOperInfo"]
	}
	kinds["IpamDriver.ReleasePool"] = []byte(`{"PoolID":"10.88.0.0/16,10.88.1.64/26"}`)
	kinds["IpamDriver.ReleaseAddress"] = []byte(`{"PoolID":"10.88.0.0/16","Address":"10.88.1.77"}`)
	kinds["NetworkDriver.DiscoverNew"] = []byte(`{"DiscoveryType":1,"DiscoveryData":{"Address":"192.0.2.1","self":true}}`)
	for _, path := range slices.Sorted(maps.Keys(kinds)) {
		stage.calls = append(stage.calls, hostileCall{path, kinds[path]})
	}
	return stage
}

// hostileRefused tells whether an engine takes an answer for an error.
func hostileRefused(status int, answer []byte) bool {
	var said struct{ Err, Error string }
	err := json.Unmarshal(answer, &said)
	return err == nil && (status != 200 && said.Err != "" || status == 200 && (said.Err != "" || said.Error != ""))
}

// refuse sends what no engine sends, and wants it to be refused with one of the statuses, without a trace.
func (s hostileStage) refuse(t *testing.T, what string, c hostileCall, statuses ...int) {
	t.Helper()
	before := s.host.String()
	status, answer := s.server.post(t, c.path, c.body)
	if !hostileRefused(status, answer) || !slices.Contains(statuses, status) {
		t.Errorf("%s of %s: %d %.200s to %.200q", what, c.path, status, answer, c.body)
	}
	if after := s.host.String(); after != before {
		t.Fatalf("%s of %s has changed\n%sinto\n%s", what, c.path, before, after)
	}
}

// hostileFields are those that a call reads. Others may hold anything: they are those of newer engines.
func hostileFields(path string) []string {
	fields := map[string]string{
		"NetworkDriver.GwAllocCheck": "Options enable_ipv6 internal generic",
		"NetworkDriver.CreateNetwork": "NetworkID Options enable_ipv6 internal generic mtu IPv4Data IPv6Data " +
			"AddressSpace Pool Gateway",
		"NetworkDriver.DeleteNetwork":               "NetworkID",
		"NetworkDriver.CreateEndpoint":              "NetworkID EndpointID Interface Address AddressIPv6 MacAddress",
		"NetworkDriver.Join":                        "NetworkID EndpointID",
		"NetworkDriver.ProgramExternalConnectivity": "NetworkID EndpointID portmap Proto Port HostIP HostPort HostPortEnd",
		"NetworkDriver.DiscoverNew":                 "",
		"IpamDriver.RequestPool":                    "AddressSpace Pool SubPool V6",
		"IpamDriver.ReleasePool":                    "PoolID",
		"IpamDriver.RequestAddress":                 "PoolID Address Options",
		"IpamDriver.ReleaseAddress":                 "PoolID Address",
	}
	if read, listed := fields[path]; listed {
		return strings.Fields(read)
	}
	return []string{"NetworkID", "EndpointID"}
}

// hostileMutations are a request with one field each of another kind, or with a senseless value of its own.
func hostileMutations(t *testing.T, c hostileCall) (what []string, all []hostileCall) {
	t.Helper()
	var whole any
	if err := json.Unmarshal(c.body, &whole); err != nil {
		t.Fatal(err)
	}
	read := hostileFields(c.path)
	try := func(field string, was any, set func(any)) {
		kinds := []any{42.5, -1.0, 1e300, "\x00☃", strings.Repeat("9", 4000), true, []any{[]any{}}, map[string]any{"a": 1}}
		for i, kind := range kinds {
			if _, ordinary := was.(bool); fmt.Sprintf("%T", kind) == fmt.Sprintf("%T", was) && (ordinary || i > 5) {
				continue
			}
			set(kind)
			text, err := json.Marshal(whole)
			if err != nil {
				t.Fatal(err)
			}
			what, all = append(what, fmt.Sprintf("%.12v as %s", kind, field)), append(all, hostileCall{c.path, text})
		}
		set(was)
	}
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for _, k := range slices.Sorted(maps.Keys(v)) {
				short := k[strings.LastIndex(k, ".")+1:]
				if short == "exposedports" {
					continue
				}
				if slices.Contains(read, short) {
					try(short, v[k], func(x any) { v[k] = x })
				}
				if k != "Options" || !slices.Contains([]string{"NetworkDriver.CreateEndpoint", "NetworkDriver.Join"}, c.path) {
					walk(v[k])
				}
			}
		case []any:
			for i := range v[:min(3, len(v))] {
				try("element", v[i], func(x any) { v[i] = x })
				walk(v[i])
			}
		}
	}
	try("all", whole, func(x any) { whole = x })
	walk(whole)
	return what, all
}

// oldAndNew are the two engines between which requests differ most.
func oldAndNew(t testing.TB) []replayEngine {
	t.Helper()
	all := replayEngines(t)
	return []replayEngine{all[0], all[len(all)-1]}
}

func TestHostileWrongTypes(t *testing.T) {
	for _, e := range oldAndNew(t)[1:] {
		stage := hostileHost(t, e, 5*time.Second)
		count := 0
		for _, c := range stage.calls {
			what, all := hostileMutations(t, c)
			for i, m := range all {
				stage.refuse(t, e.Engine+": "+what[i], m, 200, 400)
			}
			count += len(all)
		}
		if count < 400 {
			t.Errorf("%s: only %d requests of %d kinds", e.Engine, count, len(stage.calls))
		}
	}
}

func TestHostileTruncated(t *testing.T) {
	for _, e := range oldAndNew(t)[1:] {
		stage := hostileHost(t, e, 5*time.Second)
		for _, c := range stage.calls {
			for n := 0; n < len(c.body); n += 1 + len(c.body)/29 {
				stage.refuse(t, fmt.Sprintf("%s: %d bytes", e.Engine, n), hostileCall{c.path, c.body[:n]}, 400)
			}
		}
	}
}

// An engine that has lost its connection in the midst of a call sends the call again, without its body (moby#39331).
func TestHostileBodies(t *testing.T) {
	stage := hostileHost(t, oldAndNew(t)[1], 5*time.Second)
	for _, c := range stage.calls {
		for what, body := range map[string]string{
			"nothing": "", "white space": " \r\n\t", "null": "null", "an array": "[]", "a number": "1", "text": `"{}"`,
			"two objects": string(c.body) + "{}", "no JSON": "a=1&b=2", "no UTF-8": "{\"\xff\xfe\": \xff}", "a NUL": "{}\x00",
			"deep nesting":  `{"Options":` + strings.Repeat(`{"a":[`, 12_000) + strings.Repeat(`]}`, 12_000) + `}`,
			"an open depth": `{"Options":` + strings.Repeat(`[`, 50_000),
		} {
			stage.refuse(t, what, hostileCall{c.path, []byte(body)}, 400)
		}
		large := append(bytes.Repeat([]byte(" "), 1<<20-len(c.body)+1), c.body...)
		stage.refuse(t, "1 MiB and a byte", hostileCall{c.path, large}, 413)
	}
	info := []byte(`{"NetworkID":"` + strings.Repeat("a", 64) + `","EndpointID":"` + strings.Repeat("b", 64) + `"}`)
	whole := append(bytes.Repeat([]byte(" "), 1<<20-len(info)), info...)
	if status, answer := stage.server.post(t, "NetworkDriver.EndpointOperInfo", whole); status != 200 {
		t.Errorf("1 MiB: %d %s", status, answer)
	}
}

func TestHostilePaths(t *testing.T) {
	stage := hostileHost(t, replayEngines(t)[0], 5*time.Second)
	for _, path := range []string{
		"", "Plugin.Deactivate", "Plugin.Activate/", "/Plugin.Activate", "plugin.activate", "NetworkDriver.", "NetworkDriver.Join2",
		"IpamDriver.Join", "VolumeDriver.Create", "%00", strings.Repeat("x", 8000), "NetworkDriver.%2e%2e/Join",
	} {
		stage.refuse(t, "path", hostileCall{path, []byte("{}")}, 404)
	}
	before := stage.host.String()
	for _, method := range []string{"GET", "PUT", "DELETE", "OPTIONS", "BREW"} {
		if status, allow := stage.server.ask(t, method, "NetworkDriver.DeleteNetwork", stage.calls[0].body); status != 405 || allow != "POST" {
			t.Errorf("%s: %d, %q is allowed", method, status, allow)
		}
	}
	if after := stage.host.String(); after != before {
		t.Errorf("changed into\n%s", after)
	}
}
