package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/fairlead-net/fairlead/fastpath"
)

// Sighting is one packet that a program of the fast path saw, and what it did with it.
type Sighting struct {
	Time     time.Time  `json:"time"`
	From     netip.Addr `json:"from"`
	To       netip.Addr `json:"to"`
	Proto    string     `json:"proto"` // "tcp", "udp", "sctp", "icmp", else its number
	FromPort uint16     `json:"from_port"`
	ToPort   uint16     `json:"to_port"`
	Link     string     `json:"link"` // that it came in by
	Length   int        `json:"length"`
	TTL      int        `json:"ttl"`
	Way      string     `json:"way"`  // as in fairlead_fastpath_packets_total
	Lost     uint32     `json:"lost"` // packets so far of which nothing could be told
}

// errUnseen is that no program is there which could tell of packets.
var errUnseen = errors.New("no packet can be followed")

// streamSightings answers with a line of JSON for each packet of a pair, until the client leaves or the API ends. The
// programs are told to stop when the connection closes, however that comes.
func (a *Agent) streamSightings(w http.ResponseWriter, r *http.Request) {
	q, err := traceRequest(r)
	if err != nil {
		fail(w, err)
		return
	}
	over := a.news.feed.over
	ctx, stop := context.WithCancel(r.Context())
	defer stop()
	defer context.AfterFunc(over, stop)()
	seen, err := a.sight(ctx, q)
	if err != nil {
		fail(w, err)
		return
	}
	s := stream{w: w, control: http.NewResponseController(w), over: over}
	_ = s.control.SetReadDeadline(time.Time{}) // that of an ordinary call would end a quiet stream
	defer context.AfterFunc(over, func() { _ = s.control.SetWriteDeadline(time.Now().Add(lastLimit)) })()
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	if s.flush() != nil {
		return
	}
	to := json.NewEncoder(w)
	for one := range seen {
		if line := sightingOf(one); q.asks(one) && (to.Encode(line) != nil || s.flush() != nil) {
			return
		}
	}
}

// sight has the programs tell of the packets between both ends.
func (a *Agent) sight(ctx context.Context, q TraceRequest) (<-chan fastpath.Sighting, error) {
	o, _, _ := a.seen()
	if err := q.check(); err != nil {
		return nil, fmt.Errorf("trace: %w", err)
	}
	from, to, err := (&walk{o: &o, d: &o.desired, in: &o.in}).ends(q)
	if err != nil {
		return nil, fmt.Errorf("trace: %w", err)
	}
	if !o.in.fast.on {
		return nil, fmt.Errorf("trace: %w: the fast path, whose programs would tell, is %s", errUnseen, a.fastWords(&o))
	}
	seen, err := a.room.Kernel.Fast.Engine.Follow(ctx, from, to)
	if errors.Is(err, fastpath.ErrFollowed) {
		return nil, fmt.Errorf("trace: %w: %w: end the other fairlead trace --live first", ErrConflict, err)
	}
	if err != nil {
		return nil, fmt.Errorf("trace: %w", err)
	}
	return seen, nil
}

// asks tells whether the packet is of the protocol and the port that are asked for, at either end: answers are of interest
// too.
func (q TraceRequest) asks(s fastpath.Sighting) bool {
	return (q.Proto == "" || q.Proto == protoWord(s.Protocol)) && (q.Port == 0 || q.Port == s.FromPort || q.Port == s.ToPort)
}

func sightingOf(s fastpath.Sighting) Sighting {
	return Sighting{
		Time: s.Time, From: s.From, To: s.To, Proto: protoWord(s.Protocol), FromPort: s.FromPort, ToPort: s.ToPort,
		Link: s.Link, Length: s.Length, TTL: int(s.TTL), Way: s.Reason.String(), Lost: s.Lost,
	}
}

// protoWord is the name of a protocol, by the numbers that IANA assigned.
func protoWord(number uint8) string {
	switch number {
	case 1, 58:
		return "icmp"
	case 6:
		return "tcp"
	case 17:
		return "udp"
	case 132:
		return "sctp"
	}
	return strconv.Itoa(int(number))
}
