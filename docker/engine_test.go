package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// serveEngine answers as h does on a socket, whose path it returns.
func serveEngine(t *testing.T, h http.Handler) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "docker.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: h}}
	s.Start()
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return socket
}

// engineAt is an engine that is asked for at most a moment.
func engineAt(t *testing.T, socket string) (*engine, context.Context) {
	t.Helper()
	e := newEngine(socket)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	t.Cleanup(cancel)
	t.Cleanup(e.client.CloseIdleConnections)
	return e, ctx
}

// recorded answers as an engine did: the files below testdata are the words of 20.10.24 and 28.5.2, and what moby's
// api/types say that 29 makes of the latter.
func recorded(t *testing.T, version string) http.Handler {
	t.Helper()
	read := func(file string) []byte {
		text, err := os.ReadFile(filepath.Join("testdata", "look-"+version+"-"+file+".json"))
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	containers, networks, network := read("containers"), read("networks"), read("network")
	var each []json.RawMessage
	if err := json.Unmarshal(networks, &each); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /containers/json", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(containers) })
	mux.HandleFunc("GET /networks", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(networks) })
	mux.HandleFunc("GET /networks/{id}", func(w http.ResponseWriter, r *http.Request) {
		for _, text := range append([]json.RawMessage{network}, each...) {
			if strings.Contains(string(text), `"Id": "`+r.PathValue("id")+`"`) {
				_, _ = w.Write(text)
				return
			}
		}
		http.NotFound(w, r)
	})
	return mux
}

// TestEngineReadsRecordings reads what engines of different ages said of the same containers on the same networks.
func TestEngineReadsRecordings(t *testing.T) {
	cases := map[string]string{
		"20.10": `container /db bb
  inner 10.78.0.50 fd00:78::3 via 10.78.0.3 fd00:78::1
container /web bb com.docker.compose.project=shop com.docker.compose.service=web tier=front
  apps 10.77.0.65 - via 10.77.0.64 -
  inner 10.78.0.1 fd00:78::2 via 10.78.0.3 fd00:78::1
`,
		"28": `container /db bb
  inner 10.78.0.50 fd00:78::3 via - -
container /web bb com.docker.compose.project=shop com.docker.compose.service=web tier=front
  apps 10.77.0.65 - via 10.77.0.64 -
  inner 10.78.0.1 fd00:78::2 via - -
`,
		"29": `container /web bb tier=front
  inner 10.78.0.50 fd00:78::3 via - -
`,
	}
	const networks = `network apps of bridge by default, internal false, ipv6 false, map[com.docker.network.driver.mtu:1400]
  10.77.0.0/24 "10.77.0.64/26" via - map[dns:10.77.0.10 router:10.77.0.9]
network inner of bridge by default, internal true, ipv6 true, map[]
  10.78.0.0/24 "" via 10.78.0.3 map[]
  fd00:78::/64 "" via - map[]
`
	for version, want := range cases {
		t.Run(version, func(t *testing.T) {
			e, ctx := engineAt(t, serveEngine(t, recorded(t, version)))
			containers, err := e.containers(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, drawContainers(containers)); diff != "" {
				t.Errorf("containers (-want +got)\n%s", diff)
			}
			all, err := e.networks(ctx)
			if err != nil {
				t.Fatal(err)
			}
			text := drawNetworks(all)
			if text, _, _ = strings.Cut(text, "network auto"); text != networks {
				t.Errorf("networks (-want +got)\n%s", cmp.Diff(networks, text))
			}
			inner, err := e.network(ctx, all[1].ID)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range inner.Containers {
				if len(c.EndpointID) != 64 || !strings.HasPrefix(c.IPv4Address.String(), "10.78.0.") || !c.IPv6Address.Is6() {
					t.Errorf("attachment %+v", c)
				}
			}
			if len(inner.Containers) == 0 || inner.ID != all[1].ID {
				t.Errorf("network %+v", inner)
			}
		})
	}
}

func drawContainers(all []engineContainer) string {
	var b strings.Builder
	for _, c := range all {
		fmt.Fprintf(&b, "container %s %s", c.Names[0], c.Image)
		for _, l := range drawKeys(c.Labels) {
			fmt.Fprintf(&b, " %s=%s", l, c.Labels[l])
		}
		b.WriteString("\n")
		for _, n := range drawKeys(c.NetworkSettings.Networks) {
			e := c.NetworkSettings.Networks[n]
			if len(e.EndpointID) != 64 || len(e.NetworkID) != 64 {
				fmt.Fprintf(&b, "  %s is no endpoint: %+v\n", n, e)
			}
			fmt.Fprintf(&b, "  %s %s %s via %s %s\n", n, drawAddress(e.IPAddress), drawAddress(e.GlobalIPv6Address),
				drawAddress(e.Gateway), drawAddress(e.IPv6Gateway))
		}
	}
	return b.String()
}

func drawNetworks(all []engineNetwork) string {
	var b strings.Builder
	for _, n := range all {
		fmt.Fprintf(&b, "network %s of %s by %s, internal %t, ipv6 %t, %v\n", n.Name, n.Driver, n.IPAM.Driver, n.Internal, n.EnableIPv6, n.Options)
		for _, p := range n.IPAM.Config {
			fmt.Fprintf(&b, "  %s %q via %s %v\n", p.Subnet, p.IPRange, drawAddress(p.Gateway), p.AuxiliaryAddresses)
		}
	}
	return b.String()
}

func drawKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func drawAddress(a engineAddress) string {
	if !a.IsValid() {
		return "-"
	}
	return a.String()
}

// TestEngineAddress reads addresses as all ages of engines write them.
func TestEngineAddress(t *testing.T) {
	cases := []struct {
		text, want string // want "-": none; "": an error
	}{
		{"10.88.0.7", "10.88.0.7"},
		{"10.88.0.7/32", "10.88.0.7"},
		{"169.254.1.1/16", "169.254.1.1"},
		{"::ffff:10.88.0.7", "10.88.0.7"},
		{"::ffff:10.88.0.7/128", "10.88.0.7"},
		{"fd00::7/128", "fd00::7"},
		{"", "-"},
		{"<nil>", "-"},
		{"invalid IP", "-"},
		{"invalid Prefix", "-"},
		{"10.88.0", ""},
		{"10.88.0.7/33", ""},
		{"web", ""},
		{" ", ""},
	}
	for _, c := range cases {
		var a engineAddress
		a.Addr = netip.MustParseAddr("192.0.2.1")
		err := a.UnmarshalText([]byte(c.text))
		if got := drawAddress(a); (err != nil) != (c.want == "") || err == nil && got != c.want {
			t.Errorf("%q: %s, %v, want %q", c.text, got, err, c.want)
		}
	}
}

// TestEngineFaults asks engines that do not answer as they should: each is an error that says so, and soon.
func TestEngineFaults(t *testing.T) {
	huge := strings.Repeat("a", 1<<20)
	cases := []struct {
		name  string
		serve http.HandlerFunc
		want  string // part of the error
	}{
		{"refuses", func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, `{"message":"client version 1.12 is too old"}`, http.StatusBadRequest)
		}, "400 Bad Request: client version 1.12 is too old"},
		{"breaks", func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, huge, http.StatusInternalServerError)
		}, "500 Internal Server Error"},
		{"knows nothing", http.NotFound, "not known to Docker"},
		{"sends elsewhere", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/containers/json?all=1", http.StatusFound)
		}, "302"},
		{"says nothing", func(http.ResponseWriter, *http.Request) {}, "EOF"},
		{"says half", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `[{"Id":"ab"},`)
		}, "unexpected EOF"},
		{"dies in the middle", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, `[{"Id":"ab"},`)
		}, "unexpected EOF"},
		{"says too much", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `[{"Id":"`)
			for range 100 {
				if _, err := fmt.Fprint(w, huge); err != nil {
					return
				}
			}
			fmt.Fprint(w, `"}]`)
		}, "more than 16777216 bytes"},
		{"speaks of something else", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"Id":"ab"}`)
		}, "cannot unmarshal object"},
		{"has no such address", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `[{"NetworkSettings":{"Networks":{"apps":{"EndpointID":"ab","IPAddress":"10.88.0.256"}}}}]`)
		}, "10.88.0.256"},
		{"says null", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "null") }, "not what was asked for"},
		{"says things without a name", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `[{"Id":"ab"},{}]`)
		}, "not what was asked for"},
		{"hangs", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "deadline exceeded"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e, ctx := engineAt(t, serveEngine(t, c.serve))
			if c.name == "hangs" {
				short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
				defer cancel()
				ctx = short
			}
			_, err := e.containers(ctx)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "/containers/json") {
				t.Errorf("error %v, want %q", err, c.want)
			}
			if c.name == "knows nothing" && !errors.Is(err, errEngineUnknown) {
				t.Errorf("error %v wraps nothing", err)
			}
		})
	}
}
