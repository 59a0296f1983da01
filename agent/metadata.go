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
	why   string        // nobody is answered
	calls map[asker]int // under way
}

// asker is whoever has an address, or, on a link that only one container has, that container, which may ask from
// any address of the link.
type asker struct {
	from netip.Addr
	link string
}

// desk is where containers ask.
type desk struct {
	address string
	link    string // the host side of the only one that can ask there; "" where many can
}

// asker is who asks there from a remote address.
func (d desk) asker(remote string) asker {
	if d.link != "" {
		return asker{link: d.link}
	}
	from, _ := netip.ParseAddrPort(remote)
	return asker{from: from.Addr().Unmap()}
}

func newMetadata() *metadata { return &metadata{calls: make(map[asker]int)} }

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
	open := make(map[desk]context.CancelFunc)
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
		for d, end := range open {
			if !slices.Contains(want, d) {
				end()
				delete(open, d)
			}
		}
		var errs []error
		for _, d := range want {
			if open[d] != nil {
				continue
			}
			l, err := net.Listen("tcp", d.address)
			if errs = append(errs, err); err != nil {
				continue
			}
			ctx, end := context.WithCancel(ctx)
			open[d] = end
			all.Go(func() { _ = a.answerMetadata(ctx, l, d) }) // it fails when its socket does, and with that the containers
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

// gateways are where endpoints ask: those of IPv4 at the one of their network, or the one for all that are on none. Each
// other has one of its own, on its link, which is named by its index, since a link that is made anew has another one.
func (o *outcome) gateways() (shared []desk) {
	if o.report == nil || o.in.uninstall {
		return nil
	}
	port := strconv.Itoa(nat.MetadataPort)
	var own []desk
	var index map[string]int
	for _, r := range o.in.records {
		row := r.row()
		if row.IP4.IsValid() {
			gateway := desk{address: net.JoinHostPort(cmp.Or(row.Gateway4, tunnel.Gateway()).String(), port)}
			if !slices.Contains(shared, gateway) {
				shared = append(shared, gateway)
			}
			continue
		}
		if index == nil {
			index = linkIndexes()
		}
		if i := index[row.HostIf]; i != 0 {
			own = append(own, desk{net.JoinHostPort(row.Greets()[0].String()+"%"+strconv.Itoa(i), port), row.HostIf})
		}
	}
	return append(shared, own...)
}

// linkIndexes are the indexes of all links by name; of none when the kernel does not tell.
func linkIndexes() map[string]int {
	all, _ := net.Interfaces()
	index := make(map[string]int, len(all))
	for _, l := range all {
		index[l.Name] = l.Index
	}
	return index
}

func (a *Agent) answerMetadata(ctx context.Context, l net.Listener, d desk) error {
	s := &http.Server{
		Handler: a.metadataHandler(d), ReadHeaderTimeout: metadataWait, ReadTimeout: metadataWait, WriteTimeout: metadataWait,
		MaxHeaderBytes: 4 << 10,
	}
	s.SetKeepAlivesEnabled(false)
	return serve(ctx, s, crowd{l, a.metadata, d})
}

// crowd refuses the connections of a caller that has too many.
type crowd struct {
	net.Listener
	of *metadata
	at desk
}

func (c crowd) Accept() (net.Conn, error) {
	for {
		conn, err := c.Listener.Accept()
		if err != nil {
			return nil, err
		}
		who := c.at.asker(conn.RemoteAddr().String())
		if c.of.enter(who) {
			return &visitor{Conn: conn, leave: sync.OnceFunc(func() { c.of.leave(who) })}, nil
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

func (m *metadata) enter(who asker) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.calls[who] >= metadataCalls {
		return false
	}
	m.calls[who]++
	return true
}

func (m *metadata) leave(who asker) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.calls[who]--; m.calls[who] <= 0 {
		delete(m.calls, who)
	}
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

// self finds the endpoint that asks.
func (a *Agent) self(who asker) (s Self, err error) {
	o, _, _ := a.seen()
	i := slices.IndexFunc(o.in.records, func(r record) bool {
		if who.link != "" {
			return r.row().HostIf == who.link
		}
		return slices.Contains(r.Addresses, who.from)
	})
	if i < 0 {
		return s, errNoEndpoint
	}
	r := o.in.records[i]
	if now, found, err := a.record(r.Name); found && err == nil {
		r = now // what people call it may have been learnt since
	}
	e := a.show(r)
	return Self{
		Name: e.Name, ID: e.ID, Node: e.Node, Addresses: e.Addresses, Labels: e.Labels, HostIP: a.hostAddresses(), Ports: e.Ports,
	}, nil
}

func (a *Agent) metadataHandler(d desk) http.Handler {
	mux := http.NewServeMux()
	about := func(pattern string, show func(http.ResponseWriter, Self)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			s, err := a.self(d.asker(r.RemoteAddr))
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
