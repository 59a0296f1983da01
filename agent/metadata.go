package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/fairlead-net/fairlead/endpoint"
	"github.com/fairlead-net/fairlead/nat"
	"github.com/fairlead-net/fairlead/tunnel"
)

const (
	metadataWait  = 2 * time.Second // for a question, and for its answer to be taken
	metadataCalls = 8               // of one address at a time: no container keeps the others from being answered
)

// metadata answers containers, on port 8088 of their gateway, with what they are and which ports of the host they have.
// Who asks is told by the address: to ask for another, one would have to get its answers too.
type metadata struct {
	mu    sync.Mutex
	why   string             // nobody is answered
	calls map[netip.Addr]int // under way, by address
}

func newMetadata() *metadata { return &metadata{calls: make(map[netip.Addr]int)} }

func (m *metadata) fault() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.why
}

func (m *metadata) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.why = ""; err != nil {
		m.why = fmt.Sprintf("containers can not ask for their metadata: %v", err)
	}
}

// ServeMetadata answers until ctx ends, on the gateways of the endpoints that the latest pass knew.
func (a *Agent) ServeMetadata(ctx context.Context) error {
	var all sync.WaitGroup
	defer all.Wait()
	open := make(map[string]context.CancelFunc) // by address
	defer func() {
		for _, end := range open {
			end()
		}
	}()
	for {
		a.mu.Lock()
		o, next := a.state.last, a.state.passed
		a.mu.Unlock()
		want := o.gateways()
		for address, end := range open {
			if !slices.Contains(want, address) {
				end()
				delete(open, address)
			}
		}
		var errs []error
		for _, address := range want {
			if open[address] != nil {
				continue
			}
			l, err := net.Listen("tcp", address)
			if errs = append(errs, err); err != nil {
				continue
			}
			ctx, end := context.WithCancel(ctx)
			open[address] = end
			all.Go(func() { _ = a.answerMetadata(ctx, l) }) // it fails when its socket does, and with that the containers
		}
		a.metadata.fail(errors.Join(errs...))
		select {
		case <-next:
		case <-a.stopped:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// gateways are where endpoints ask. Those of IPv4 have one for all; each other has one of its own, on its link, which is
// named by its index, since a link that is made anew has another one.
func (o *outcome) gateways() (all []string) {
	if o.report == nil || o.in.uninstall {
		return nil
	}
	port := strconv.Itoa(nat.MetadataPort)
	var index map[string]int
	for _, r := range o.in.records {
		row := r.row()
		switch {
		case !row.Greets() && len(all) > 0 && all[0] == gateway4(port):
		case !row.Greets():
			all = slices.Insert(all, 0, gateway4(port))
		default:
			if index == nil {
				index = linkIndexes()
			}
			if i := index[row.HostIf]; i != 0 {
				all = append(all, net.JoinHostPort(endpoint.Gateway6().String()+"%"+strconv.Itoa(i), port))
			}
		}
	}
	return all
}

func gateway4(port string) string { return net.JoinHostPort(tunnel.Gateway().String(), port) }

// linkIndexes are the indexes of all links by name; of none when the kernel does not tell.
func linkIndexes() map[string]int {
	all, _ := net.Interfaces()
	index := make(map[string]int, len(all))
	for _, l := range all {
		index[l.Name] = l.Index
	}
	return index
}

func (a *Agent) answerMetadata(ctx context.Context, l net.Listener) error {
	s := &http.Server{
		Handler: a.metadataHandler(), ReadHeaderTimeout: metadataWait, ReadTimeout: metadataWait, WriteTimeout: metadataWait,
		MaxHeaderBytes: 4 << 10,
	}
	s.SetKeepAlivesEnabled(false)
	return serve(ctx, s, crowd{l, a.metadata})
}

// crowd refuses the connections of an address that has too many.
type crowd struct {
	net.Listener
	of *metadata
}

func (c crowd) Accept() (net.Conn, error) {
	for {
		conn, err := c.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := callerOf(conn.RemoteAddr().String())
		if c.of.enter(from) {
			return &visitor{Conn: conn, leave: sync.OnceFunc(func() { c.of.leave(from) })}, nil
		}
		_ = conn.Close()
	}
}

type visitor struct {
	net.Conn
	leave func()
}

func (v *visitor) Close() error {
	v.leave()
	return v.Conn.Close()
}

func (m *metadata) enter(from netip.Addr) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.calls[from] >= metadataCalls {
		return false
	}
	m.calls[from]++
	return true
}

func (m *metadata) leave(from netip.Addr) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.calls[from]--; m.calls[from] <= 0 {
		delete(m.calls, from)
	}
}

// callerOf is the address that a connection comes from.
func callerOf(remote string) netip.Addr {
	from, _ := netip.ParseAddrPort(remote)
	return from.Addr().Unmap().WithZone("")
}

var errNoEndpoint = errors.New("no endpoint of this host has your address")

// Self is what a container learns of itself.
type Self struct {
	Name      string            `json:"name"`
	ID        string            `json:"id"`
	Node      string            `json:"node"`
	Addresses []netip.Addr      `json:"addresses"`
	Labels    map[string]string `json:"labels"`
	HostIP    []netip.Addr      `json:"host_ip"`
	Ports     []Port            `json:"ports"`
}

// self finds the endpoint with an address.
func (a *Agent) self(from netip.Addr) (s Self, err error) {
	o, _, _ := a.seen()
	i := slices.IndexFunc(o.in.records, func(r record) bool { return slices.Contains(r.Addresses, from) })
	if i < 0 {
		return s, errNoEndpoint
	}
	e := a.show(o.in.records[i])
	return Self{
		Name: e.Name, ID: e.ID, Node: e.Node, Addresses: e.Addresses, Labels: e.Labels, HostIP: a.hostAddresses(), Ports: e.Ports,
	}, nil
}

func (a *Agent) metadataHandler() http.Handler {
	mux := http.NewServeMux()
	about := func(pattern string, show func(http.ResponseWriter, Self)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			s, err := a.self(callerOf(r.RemoteAddr))
			if err != nil {
				http.Error(w, err.Error(), http.StatusForbidden)
				return
			}
			show(w, s)
		})
	}
	about("GET /json", func(w http.ResponseWriter, s Self) { reply(w, http.StatusOK, s) })
	about("GET /{$}", func(w http.ResponseWriter, s Self) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		for _, v := range s.variables() {
			_, _ = fmt.Fprintf(w, "%s=%s\n", v.Name, v.Value)
		}
	})
	return mux
}

// variables are the same as lines for a shell or an environment file. A label with a line break in it loses that, and of
// two whose keys differ in signs only one is told.
func (s Self) variables() []Variable {
	all := []Variable{{"FAIRLEAD_NAME", s.Name}, {"FAIRLEAD_NODE", s.Node}}
	for _, ip := range s.Addresses {
		name := "FAIRLEAD_ADDRESS"
		if ip.Is6() {
			name += "6"
		}
		all = append(all, Variable{name, ip.String()})
	}
	all = append(all, environment(s.Ports, s.HostIP)...)
	labels := make([]Variable, 0, len(s.Labels))
	for k, v := range s.Labels {
		labels = append(labels, Variable{"FAIRLEAD_LABEL_" + shellName(k), graphic(v)})
	}
	slices.SortFunc(labels, func(x, y Variable) int {
		return cmp.Or(strings.Compare(x.Name, y.Name), strings.Compare(x.Value, y.Value))
	})
	labels = slices.CompactFunc(labels, func(x, y Variable) bool { return x.Name == y.Name })
	return append(all, labels...)
}

// shellName is a label's key as the name of a variable.
func shellName(key string) string {
	return strings.Map(func(c rune) rune {
		if c < unicode.MaxASCII && (unicode.IsLetter(c) || unicode.IsDigit(c)) {
			return unicode.ToUpper(c)
		}
		return '_'
	}, key)
}
