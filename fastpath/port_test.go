package fastpath

import (
	"net/netip"
	"testing"
	"time"
)

// TestConnectionsEndInTheirTime: a connection goes from both sides at once, when it is silent for as long as its state allows
// or its port leads elsewhere.
func TestConnectionsEndInTheirTime(t *testing.T) {
	const day = 24 * time.Hour
	port := Port{Address: netip.IPv4Unspecified(), Number: 8080}
	own := Port{Address: netip.MustParseAddr("192.0.2.1"), Number: 8080}
	to, other := netip.MustParseAddrPort("10.88.1.7:80"), netip.MustParseAddrPort("10.88.1.8:80")
	for name, c := range map[string]struct {
		proto           uint8
		outside, inside uint32
		lasts           time.Duration
	}{
		"asked for":                   {protoTCP, seenAny, 0, 2 * time.Minute},
		"established":                 {protoTCP, seenAny, seenAny, 5 * day},
		"half closed":                 {protoTCP, seenAny | seenFIN, seenAny, 2 * time.Minute},
		"closed":                      {protoTCP, seenAny | seenFIN, seenAny | seenFIN, 2 * time.Minute},
		"reset":                       {protoTCP, seenAny, seenAny | seenRST, 10 * time.Second},
		"a datagram":                  {protoUDP, seenAny, 0, 30 * time.Second},
		"a datagram that is answered": {protoUDP, seenAny, seenAny, 2 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			out := tuple{Protocol: c.proto, Family: 4, NearPort: portBytes(8080), FarPort: portBytes(40000)}
			out.Near, _ = bytesOf(netip.MustParseAddr("192.0.2.1"))
			out.Far, _ = bytesOf(netip.MustParseAddr("203.0.113.9"))
			in := out
			in.Inside, in.NearPort = 1, portBytes(80)
			in.Near, _ = bytesOf(to.Addr())
			const began = time.Hour
			all := map[tuple]connectionValue{
				out: {Other: in, State: c.outside, Seen: uint64(began)}, in: {Other: out, State: c.inside, Seen: uint64(began - time.Minute)},
			}
			leading := func(p Port, to netip.AddrPort) map[portKey]targetValue {
				p.Proto = c.proto
				return map[portKey]targetValue{p.encode(): Mapping{To: to}.encode()}
			}
			check := func(ports map[portKey]targetValue, now time.Duration, want bool) {
				t.Helper()
				for k, v := range all {
					if isOver(all, ports, k, v, now) != want {
						t.Errorf("after %v from the side %d: over %t, want %t", now-began, k.Inside, !want, want)
					}
				}
			}
			check(leading(port, to), began+c.lasts, false)
			check(leading(own, to), began+c.lasts, false)
			check(leading(port, to), began+c.lasts+1, true)
			check(leading(port, other), began, true)
			check(nil, began, true)
			delete(all, in)
			check(leading(port, to), began+time.Second, false)
			check(leading(port, to), began+time.Second+1, true)
		})
	}
}
