//go:build ignore

/*
 * The programs of the fast path.
 *
 * Each packet either takes the short way or is left to the kernel as it came. Both directions of a flow must choose the
 * same, or the kernel's connection tracking sees half a conversation: so each asks for the same two things, an endpoint
 * of this host at the one end and an endpoint or a route at the other, and for the same table of flows that the kernel
 * has translated.
 */
#include "guard.h"
#include "port.h"
#include "wrap.h"
#include "wire.h"

/* Leaves a packet to the kernel that came from an endpoint. No part of each caller: that would be half of the program. */
static __noinline int kernel(struct __sk_buff *skb, struct packet *p, __u32 slot, __u32 reason, __u16 mark)
{
	because(reason);
	trace(skb, p, reason);
	COUNT(slot, kernel, skb->len);
	skb->tc_index = mark;
	return TC_ACT_UNSPEC;
}

/* The packet's length before anything is done to it, as the container's interface counts it. */
INLINE int to_endpoint(struct __sk_buff *skb, struct endpoint *from, struct endpoint *to, struct packet *p, bool v6)
{
	__u32 length = skb->len, out = from->slot, in = to->slot, link = to->link;

	if ((from->realm || to->realm) && from->realm != to->realm)
		return kernel(skb, p, out, KERNEL_REALM, MARK_SEEN);
	if (p->longest > to->mtu)
		return kernel(skb, p, out, KERNEL_SIZE, MARK_SEEN);
	if (!pass_on(skb, ETH_HLEN, v6))
		return kernel(skb, p, out, KERNEL_FORM, MARK_SEEN);
	because(FAST_LOCAL);
	trace(skb, p, FAST_LOCAL);
	COUNT(out, out, length);
	COUNT(in, in, length);
	return bpf_redirect_peer(link, 0);
}

#define AF_INET 2
#define AF_INET6 10

INLINE int neighbour(struct hop *h)
{
	struct bpf_redir_neigh next = {};

	if (h->family == 6) {
		next.nh_family = AF_INET6;
		__builtin_memcpy(next.ipv6_nh, &h->next, 16);
	} else {
		next.nh_family = AF_INET;
		next.ipv4_nh = h->next.v4;
	}
	return bpf_redirect_neigh(h->link, &next, sizeof(next), 0);
}

/* The way that a packet takes to a route, NULL when it is none of ours, and why. */
INLINE struct hop *hop_of(struct route *r, struct packet *p, __u32 *reason)
{
	__u32 at = pick(p, p->v6, r->hops);
	struct hop *h;

	*reason = KERNEL_ROUTE;
	if (at >= MAX_HOPS)
		return NULL;
	h = &r->hop[at];
	if (h->encap != ENCAP_DIRECT && h->encap != ENCAP_IPIP && h->encap != ENCAP_VXLAN)
		return NULL;
	*reason = KERNEL_SIZE;
	return p->longest > h->mtu ? NULL : h;
}

/* Sends a packet by a hop of a route that counts in a slot, for an endpoint that does. A reason says why it has been changed
 * already, 0: it has not. Not static, so that the verifier looks at it once for all callers. */
__attribute__((noinline)) int fl_by_hop(struct __sk_buff *skb, struct packet *p, struct hop *h, __u64 slots, __u32 reason)
{
	__u32 length = skb->len, from = slots >> 32, to = slots;
	int done;

	if (!p || !h)
		return TC_ACT_UNSPEC;
	done = wrap(skb, h, p, p->v6);
	if (done == -1 && !reason)
		return kernel(skb, p, from, KERNEL_FAILED, MARK_SEEN);
	if (done || !pass_on(skb, ETH_HLEN + overhead_of(h), p->v6))
		return spoilt();
	if (!reason)
		reason = h->encap == ENCAP_DIRECT ? FAST_DIRECT : h->encap == ENCAP_IPIP ? FAST_IPIP : FAST_VXLAN;
	because(reason);
	trace(skb, p, reason);
	COUNT(from, out, length);
	COUNT(to, out, length);
	skb->tc_index = MARK_FAST;
	return neighbour(h);
}

INLINE int to_route(struct __sk_buff *skb, struct endpoint *from, struct route *r, struct packet *p)
{
	__u32 reason;
	struct hop *h;

	if (from->realm)
		return kernel(skb, p, from->slot, KERNEL_REALM, MARK_SEEN);
	h = hop_of(r, p, &reason);
	if (!h)
		return kernel(skb, p, from->slot, reason, reason == KERNEL_ROUTE ? MARK_ASKED : MARK_SEEN);
	return fl_by_hop(skb, p, h, (__u64)from->slot << 32 | r->slot, 0);
}

/* By which link and to whom on it the kernel would send a packet of this host's to an address outside; 0: it would not. */
static __noinline int way_out(struct __sk_buff *skb, struct packet *p, struct tuple *out, struct bpf_redir_neigh *next)
{
	struct bpf_fib_lookup fib = { .ifindex = skb->ifindex, .l4_protocol = p->protocol };
	long found;

	fib.sport = out->near_port;
	fib.dport = out->far_port;
	fib.tot_len = p->longest; /* what is too long is left to the kernel, which says so to the endpoint */
	fib.family = p->v6 ? AF_INET6 : AF_INET;
	__builtin_memcpy(fib.ipv6_src, &out->near, 16);
	__builtin_memcpy(fib.ipv6_dst, &out->far, 16);
	found = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);
	if (found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH)
		return 0;
	next->nh_family = fib.family;
	__builtin_memcpy(next->ipv6_nh, fib.ipv6_dst, 16);
	return fib.ifindex;
}

/* Sends the answer of an endpoint as that of the host's port; -1: it is the kernel's, as it came. */
INLINE int hand_out(struct __sk_buff *skb, struct endpoint *from, struct packet *p, struct tuple *out)
{
	struct endpoint *to = endpoint_of(&out->far, p->v6);
	struct route *r = to ? NULL : route_to(&out->far, p->v6);
	__u32 length = skb->len, slot = from->slot, reason, link = 0;
	struct bpf_redir_neigh next = {};
	struct hop *h = NULL;

	if (to && p->longest > to->mtu)
		return -1;
	if (r) {
		h = hop_of(r, p, &reason);
		if (!h)
			return -1;
	} else if (!to) {
		link = way_out(skb, p, out, &next);
		if (!link)
			return -1;
	}
	if (!fl_translate(skb, p, out))
		return spoilt();
	if (r && h)
		return fl_by_hop(skb, p, h, (__u64)slot << 32 | r->slot, FAST_ANSWERED);
	if (!pass_on(skb, ETH_HLEN, p->v6))
		return spoilt();
	because(FAST_ANSWERED);
	trace(skb, p, FAST_ANSWERED);
	COUNT(slot, out, length);
	if (to) {
		link = to->link;
		COUNT(to->slot, in, length);
		return bpf_redirect_peer(link, 0);
	}
	skb->tc_index = MARK_FAST;
	return bpf_redirect_neigh(link, &next, sizeof(next), 0);
}

/* What becomes of an endpoint's packet that belongs to a port of this host, from one side or from the other; -1: it does not. */
static __noinline int by_port(struct __sk_buff *skb, struct endpoint *from, struct packet *p)
{
	struct scratch *s = scratch();

	if (!s)
		return -1;
	if (fl_other_side(skb, p, &s->other, FROM_INSIDE, 0))
		return hand_out(skb, from, p, &s->other);
	if (!fl_other_side(skb, p, &s->other, FROM_ENDPOINT, from->realm))
		return -1;
	COUNT(from->slot, out, skb->len);
	return hand_in(skb, p, &s->other);
}

INLINE int from_endpoint(struct __sk_buff *skb, bool v6)
{
	struct packet p = {};
	struct endpoint *from, *to;
	struct route *r = NULL;
	int verdict;

	read_packet(skb, &p, ETH_HLEN, v6);
	verdict = check_source(skb, &p, v6, &from);
	if (verdict >= 0)
		return verdict == TC_ACT_OK ? TC_ACT_UNSPEC : verdict;
	if (p.form == FORM_ODD)
		return kernel(skb, &p, from->slot, KERNEL_FORM, MARK_ASKED);
	if (p.form == FORM_LINK)
		return kernel(skb, &p, from->slot, KERNEL_PROTOCOL, MARK_ASKED);
	if (maps_ports()) {
		verdict = by_port(skb, from, &p);
		if (verdict >= 0)
			return verdict;
	}
	to = endpoint_of(&p.to, v6);
	if (!to)
		r = route_to(&p.to, v6);
	if (!to && !r)
		return kernel(skb, &p, from->slot, KERNEL_ROUTE, MARK_ASKED);
	if (p.ttl <= 1)
		return kernel(skb, &p, from->slot, KERNEL_TTL, MARK_SEEN);
	if (is_kernels(&p, v6, true))
		return kernel(skb, &p, from->slot, KERNEL_FLOW, MARK_ASKED);
	return to ? to_endpoint(skb, from, to, &p, v6) : to_route(skb, from, r, &p);
}

SEC("tc")
int fl_from_container(struct __sk_buff *skb)
{
	if (skb->vlan_present)
		return check_other(skb); /* of another network than its link's */
	pull(skb);
	switch (skb->protocol) {
	case bpf_htons(ETH_P_IP):
		return from_endpoint(skb, false);
	case bpf_htons(ETH_P_IPV6):
		return from_endpoint(skb, true);
	case bpf_htons(ETH_P_ARP):
		return check_arp(skb);
	}
	return check_other(skb);
}

/* What comes in for an endpoint, in the open or out of a wrapper that has been taken off. */
INLINE int deliver(struct __sk_buff *skb, struct endpoint *to, struct packet *p, bool v6, __u32 slot, __u32 reason)
{
	__u32 length = skb->len, in = to->slot, link = to->link;

	if (!pass_on(skb, ETH_HLEN, v6))
		return TC_ACT_UNSPEC;
	because(reason);
	trace(skb, p, reason);
	COUNT(in, in, length);
	COUNT(slot, in, length);
	return bpf_redirect_peer(link, 0);
}

INLINE int failed(void)
{
	because(KERNEL_FAILED);
	return TC_ACT_UNSPEC;
}

SEC("tc")
int fl_from_wire(struct __sk_buff *skb)
{
	struct arrival a = {};
	struct scratch *s = scratch();
	struct endpoint *to;

	if (skb->vlan_present || skb->pkt_type != PACKET_TO_US)
		return TC_ACT_UNSPEC;
	skb->tc_index = MARK_ASKED; /* whatever it was on another host of this machine */
	pull(skb);
	if (!arrived(skb, &a))
		return TC_ACT_UNSPEC;
	if (s && maps_ports() && fl_other_side(skb, &a.packet, &s->other, FROM_WIRE, 0)) {
		if (unwrap(skb, &a))
			return failed();
		return hand_in(skb, &a.packet, &s->other);
	}
	if (a.v6) {
		to = accept_packet(skb, &a, true);
		if (!to)
			return leave(skb, &a);
		if (unwrap(skb, &a))
			return failed();
		return deliver(skb, to, &a.packet, true, a.slot, a.reason);
	}
	to = accept_packet(skb, &a, false);
	if (!to)
		return leave(skb, &a);
	if (unwrap(skb, &a))
		return failed();
	return deliver(skb, to, &a.packet, false, a.slot, a.reason);
}

/* What leaves the kernel towards an endpoint, or from one to a node: when its addresses were others as it came in, its
 * flow is the kernel's. */
INLINE int note(struct __sk_buff *skb, __u32 at, bool out)
{
	struct packet p = {};
	struct endpoint *near;
	bool v6;

	if (skb->tc_index != MARK_ASKED)
		return TC_ACT_UNSPEC;
	pull(skb);
	if (skb->protocol == bpf_htons(ETH_P_IP))
		v6 = false;
	else if (skb->protocol == bpf_htons(ETH_P_IPV6))
		v6 = true;
	else
		return TC_ACT_UNSPEC;
	read_packet(skb, &p, at, v6);
	if (p.form == FORM_ODD || p.form == FORM_LINK)
		return TC_ACT_UNSPEC;
	near = endpoint_of(out ? &p.from : &p.to, v6);
	if (!near)
		return TC_ACT_UNSPEC;
	if (endpoint_of(out ? &p.to : &p.from, v6) || route_to(out ? &p.to : &p.from, v6))
		is_now_kernels(&p, v6, out);
	return TC_ACT_UNSPEC;
}

SEC("tc")
int fl_to_container(struct __sk_buff *skb) { return note(skb, ETH_HLEN, false); }

SEC("tc")
int fl_to_wire(struct __sk_buff *skb) { return note(skb, ETH_HLEN, true); }

SEC("tc")
int fl_to_tunnel(struct __sk_buff *skb) { return note(skb, 0, true); }

char _license[] SEC("license") = "GPL";
