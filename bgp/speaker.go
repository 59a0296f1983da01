// Package bgp tells other nodes and routers which prefixes are here, and learns from them which are there.
//
// It is the only room that knows GoBGP.
package bgp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/server"
)

// Speaker is this node's end of its BGP sessions.
type Speaker struct {
	log     *slog.Logger
	gobgp   *server.BgpServer
	hears   *logger
	changed chan struct{}
	reports *queue[*api.WatchEventResponse] // what GoBGP tells of its table and its sessions, in order
	notes   *queue[note]                    // what GoBGP's log tells
	started time.Time
	stop    context.CancelFunc
	running sync.WaitGroup

	// ops is held while GoBGP's own configuration changes, and taken before mu.
	ops     sync.Mutex
	unwatch context.CancelFunc // ends GoBGP's reports; nil before the first Announce

	// mu guards what follows. It is never held during a call into GoBGP, whose loop may be waiting in our callbacks.
	mu        sync.Mutex
	cfg       Config
	open      bool
	complete  bool
	sessions  map[netip.Addr]*session
	announced map[netip.Prefix]Announcement
	best      rib
	keeping   bool // some of best is kept for peers that restart
	claims    rib  // who else announces what we announce
}

// Start makes a speaker and checks that it can listen. The sessions begin with the first Announce, so that the first
// update of each, and the End-of-RIB behind it, tell everything: a peer forgets what a restarted node no longer tells.
//
// A process speaks in one network namespace only, since GoBGP connects from whatever thread it runs on.
func Start(cfg Config, log *slog.Logger) (*Speaker, error) {
	cfg = cfg.filled()
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("start bgp: %w", err)
	}
	// On an MPTCP socket neither TCP_MD5SIG nor IP_TTL can be set, and GoBGP would go on without them.
	if new(net.ListenConfig).MultipathTCP() {
		return nil, errors.New("start bgp: multipath TCP is on: unset GODEBUG=multipathtcp")
	}
	if err := checkPort(netip.AddrPortFrom(cfg.Listen, cfg.Port)); err != nil {
		return nil, fmt.Errorf("start bgp: %w", err)
	}
	notes := newQueue[note]()
	hears := &logger{log: log, notes: notes}
	hears.eager.Store(true)
	s := &Speaker{
		log: log, gobgp: server.NewBgpServer(server.LoggerOption(hears)), hears: hears,
		changed: make(chan struct{}, 1), reports: newQueue[*api.WatchEventResponse](), notes: notes, started: time.Now(),
		cfg: cfg, sessions: make(map[netip.Addr]*session), announced: make(map[netip.Prefix]Announcement),
		best: make(rib), claims: make(rib),
	}
	for _, t := range cfg.terms() {
		s.sessions[t.Address] = newSession(t)
	}
	s.review()
	var ctx context.Context
	ctx, s.stop = context.WithCancel(context.Background())
	go s.gobgp.Serve() // never ends: see Close
	s.running.Go(func() { s.listen(ctx) })
	s.running.Go(func() { s.tend(ctx) })
	return s, nil
}

func (c Config) terms() []terms {
	all := make([]terms, len(c.Peers))
	for i, p := range c.Peers {
		all[i] = terms{PeerConfig: p, gracefulRestart: c.GracefulRestart, restartTime: c.RestartTime}
	}
	return all
}

// Announce tells the peers of exactly these prefixes: everything, every time. The first call opens the sessions. What
// fails is reported and tried again by the next call; the rest is announced all the same.
func (s *Speaker) Announce(all []Announcement) error {
	want := make(map[netip.Prefix]Announcement, len(all))
	for _, a := range all {
		if err := a.check(); err != nil {
			return fmt.Errorf("announce: %w", err)
		}
		was, twice := want[a.Prefix]
		switch {
		case twice && was.NextHop != a.NextHop:
			return fmt.Errorf("announce %v: it can not have two next hops, %v and %v", a.Prefix, was.NextHop, a.NextHop)
		case twice && was.Encaps != a.Encaps:
			return fmt.Errorf("announce %v: it can not accept two sets of tunnels, %d and %d", a.Prefix, was.Encaps, a.Encaps)
		}
		want[a.Prefix] = a
	}
	s.ops.Lock()
	defer s.ops.Unlock()
	s.mu.Lock()
	open := s.open
	s.mu.Unlock()
	if !open {
		if err := s.begin(); err != nil {
			return fmt.Errorf("announce: %w", err)
		}
	}
	errs := s.advertise(want)
	if !open {
		errs = append(errs, s.openSessions()...)
	}
	return errors.Join(errs...)
}

// begin lets GoBGP listen, with nothing to tell and nobody to tell it to yet. A failed one can be tried again.
func (s *Speaker) begin() error {
	s.mu.Lock()
	cfg := s.cfg
	s.mu.Unlock()
	err := s.gobgp.StartBgp(context.Background(), &api.StartBgpRequest{Global: &api.Global{
		Asn: cfg.ASN, RouterId: cfg.RouterID.String(),
		ListenAddresses: []string{cfg.Listen.String()}, ListenPort: int32(cfg.Port),
		UseMultiplePaths: true,
	}})
	if err != nil {
		return fmt.Errorf("listen on %v: %w", cfg.Listen, err)
	}
	if err := s.exportOwnOnly(); err != nil {
		return err
	}
	var watch context.Context
	watch, s.unwatch = context.WithCancel(context.Background())
	err = s.gobgp.WatchEvent(watch, &api.WatchEventRequest{
		Peer: &api.WatchEventRequest_Peer{},
		Table: &api.WatchEventRequest_Table{Filters: []*api.WatchEventRequest_Table_Filter{
			{Type: api.WatchEventRequest_Table_Filter_BEST}, {Type: api.WatchEventRequest_Table_Filter_EOR},
		}},
	}, s.reports.put)
	if err != nil {
		return fmt.Errorf("watch routes: %w", err)
	}
	return nil
}

// exportOwnOnly makes sure that we never pass on what we learned: a node is not a transit between leaf and mesh.
func (s *Speaker) exportOwnOnly() error {
	own := &api.Policy{Name: "own", Statements: []*api.Statement{{
		Name:       "own",
		Conditions: &api.Conditions{RouteType: api.Conditions_ROUTE_TYPE_LOCAL},
		Actions:    &api.Actions{RouteAction: api.RouteAction_ACCEPT},
	}}}
	ctx := context.Background()
	if err := s.gobgp.AddPolicy(ctx, &api.AddPolicyRequest{Policy: own}); err != nil {
		return fmt.Errorf("add export policy: %w", err)
	}
	err := s.gobgp.SetPolicyAssignment(ctx, &api.SetPolicyAssignmentRequest{Assignment: &api.PolicyAssignment{
		Name: "global", Direction: api.PolicyDirection_EXPORT, Policies: []*api.Policy{own},
		DefaultAction: api.RouteAction_REJECT,
	}})
	if err != nil {
		return fmt.Errorf("set export policy: %w", err)
	}
	return nil
}

// advertise makes GoBGP's own paths the wanted ones.
func (s *Speaker) advertise(want map[netip.Prefix]Announcement) (errs []error) {
	s.mu.Lock()
	have := s.announced
	s.mu.Unlock()
	now := make(map[netip.Prefix]Announcement, len(want))
	ctx := context.Background()
	for prefix, a := range want {
		if have[prefix] != a {
			if err := s.addPath(ctx, a); err != nil {
				errs = append(errs, fmt.Errorf("announce %v: %w", prefix, err))
				a = have[prefix] // what was there before stays
			}
		}
		if a.Prefix.IsValid() {
			now[prefix] = a
		}
	}
	for prefix, a := range have {
		if _, ok := want[prefix]; ok {
			continue
		}
		if err := s.deletePath(ctx, a); err != nil {
			errs = append(errs, fmt.Errorf("withdraw %v: %w", prefix, err))
			now[prefix] = a
		}
	}
	s.mu.Lock()
	s.announced = now
	s.mu.Unlock()
	return errs
}

func (s *Speaker) addPath(ctx context.Context, a Announcement) error {
	p, err := a.encode()
	if err != nil {
		return err
	}
	_, err = s.gobgp.AddPath(ctx, &api.AddPathRequest{TableType: api.TableType_GLOBAL, Path: p})
	return err
}

func (s *Speaker) deletePath(ctx context.Context, a Announcement) error {
	p, err := a.encode()
	if err != nil {
		return err
	}
	return s.gobgp.DeletePath(ctx, &api.DeletePathRequest{TableType: api.TableType_GLOBAL, Path: p})
}

// Routes is a copy of the best paths. It is complete when every configured peer has told all it knew, or did not come
// within the restart time since Start: what is not there then has no way left to come.
func (s *Speaker) Routes() (routes []Route, complete bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := func(peer netip.Addr) string {
		if p := s.sessions[peer]; p != nil && p.Role == Mesh {
			return p.name
		}
		return ""
	}
	all := make(rib, len(s.best)+len(s.claims))
	for prefix, set := range s.claims {
		all[prefix] = set
	}
	for prefix, set := range s.best {
		all[prefix] = set
	}
	return all.routes(name), s.complete
}

// Changed is poked when Routes would answer differently, and when a session came up or ended, which Peers tells. Bursts
// collapse.
func (s *Speaker) Changed() <-chan struct{} {
	return s.changed
}

// Peers lists the configured neighbours by address.
func (s *Speaker) Peers() []PeerStatus {
	received := make(map[netip.Addr]int)
	_ = s.gobgp.ListPeer(context.Background(), &api.ListPeerRequest{}, func(p *api.Peer) {
		if a, err := netip.ParseAddr(p.GetState().GetNeighborAddress()); err == nil {
			for _, f := range p.GetAfiSafis() {
				received[a] += int(f.GetState().GetReceived())
			}
		}
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []PeerStatus
	for _, p := range s.sessions {
		status := PeerStatus{
			Address: p.Address, ASN: p.ASN, Role: p.Role, State: p.state, Since: p.since,
			Received: received[p.Address], LastError: p.lastError, Name: p.name, EndOfRIB: p.whole(),
		}
		for prefix := range s.announced {
			if p.state == stateEstablished && p.negotiated[familyOf(prefix)] {
				status.Advertised++
			}
		}
		all = append(all, status)
	}
	slices.SortFunc(all, func(a, b PeerStatus) int { return a.Address.Compare(b.Address) })
	return all
}

// Close stops listening to GoBGP and leaves its sessions to the end of the process. It can not end them itself: GoBGP
// would send each peer a Cease, and the peers would withdraw our routes instead of keeping them for our return.
func (s *Speaker) Close() error {
	s.stop()
	s.running.Wait()
	s.ops.Lock()
	defer s.ops.Unlock()
	if s.unwatch != nil {
		s.unwatch()
	}
	return nil
}
