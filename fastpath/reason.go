package fastpath

// Reason is why a packet went the way it went: enum reason of layout.h.
type Reason int

const (
	FastLocal Reason = iota
	FastDirect
	FastIPIP
	FastVXLAN
	FastFromDirect
	FastFromIPIP
	FastFromVXLAN
	FastMapped     // to an endpoint, by a port of the host
	FastAnswered   // from one, as that port
	KernelRoute    // no endpoint and no route is its destination or, on its way in, its source
	KernelFlow     // the kernel has translated its flow
	KernelRealm    // its network is kept apart
	KernelSize     // too large for the way
	KernelTTL      //
	KernelForm     // IP options, extension headers, or too short
	KernelProtocol // neither IPv4 nor IPv6, or talk of the link itself
	KernelTunnel   // an outer header that this node does not take, or whose content is not for an endpoint
	KernelFailed   // a helper of the kernel refused
	KernelFull     // there is no room for one more connection by a port
	DropMAC
	DropSource
	DropARP
)

// Reasons are all of them, in order.
func Reasons() []Reason {
	all := make([]Reason, 0, DropARP+1)
	for r := range DropARP + 1 {
		all = append(all, r)
	}
	return all
}

// String is the word for scripts and metrics. It stays what it is.
func (r Reason) String() string {
	if all := reasonWords(); r >= 0 && int(r) < len(all) {
		return all[r]
	}
	return "unknown"
}

func reasonWords() [DropARP + 1]string {
	return [...]string{
		"fast-local", "fast-direct", "fast-ipip", "fast-vxlan",
		"fast-from-direct", "fast-from-ipip", "fast-from-vxlan", "fast-mapped", "fast-answered",
		"kernel-route", "kernel-flow", "kernel-realm", "kernel-size", "kernel-ttl", "kernel-form", "kernel-protocol",
		"kernel-tunnel", "kernel-failed", "kernel-full",
		"drop-mac", "drop-source", "drop-arp",
	}
}
