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

INLINE int neighbour(struct hop *h)
{
	struct bpf_redir_neigh next = {};

	if (h->family == 6) {
		next.nh_family = 10; /* AF_INET6 */
		__builtin_memcpy(next.ipv6_nh, &h->next, 16);
	} else {
		next.nh_family = 2; /* AF_INET */
		next.ipv4_nh = h->next.v4;
	}
	return bpf_redirect_neigh(h->link, &next, sizeof(next), 0);
}

INLINE int to_route(struct __sk_buff *skb, struct endpoint *from, struct route *r, struct packet *p, bool v6)
{
	__u32 length = skb->len, out = from->slot, at = pick(p, v6, r->hops), reason;
	struct hop *h;
	int done;

	if (from->realm)
		return kernel(skb, p, out, KERNEL_REALM, MARK_SEEN);
	if (at >= MAX_HOPS)
		return kernel(skb, p, out, KERNEL_ROUTE, MARK_ASKED);
	h = &r->hop[at];
	if (h->encap != ENCAP_DIRECT && h->encap != ENCAP_IPIP && h->encap != ENCAP_VXLAN)
		return kernel(skb, p, out, KERNEL_ROUTE, MARK_ASKED);
	if (p->longest > h->mtu)
		return kernel(skb, p, out, KERNEL_SIZE, MARK_SEEN);
	done = wrap(skb, h, p, v6);
	if (done == -1)
		return kernel(skb, p, out, KERNEL_FAILED, MARK_SEEN);
	if (done == -2 || !pass_on(skb, ETH_HLEN + overhead_of(h), v6)) {
		because(KERNEL_FAILED);
		return TC_ACT_SHOT; /* neither way would know what to do with the half */
	}
	reason = h->encap == ENCAP_DIRECT ? FAST_DIRECT : h->encap == ENCAP_IPIP ? FAST_IPIP : FAST_VXLAN;
	because(reason);
	trace(skb, p, reason);
	COUNT(out, out, length);
	COUNT(r->slot, out, length);
	skb->tc_index = MARK_FAST;
	return neighbour(h);
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
	to = endpoint_of(&p.to, v6);
	if (!to)
		r = route_to(&p.to, v6);
	if (!to && !r)
		return kernel(skb, &p, from->slot, KERNEL_ROUTE, MARK_ASKED);
	if (p.ttl <= 1)
		return kernel(skb, &p, from->slot, KERNEL_TTL, MARK_SEEN);
	if (is_kernels(&p, v6, true))
		return kernel(skb, &p, from->slot, KERNEL_FLOW, MARK_ASKED);
	return to ? to_endpoint(skb, from, to, &p, v6) : to_route(skb, from, r, &p, v6);
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
	struct endpoint *to;

	if (skb->vlan_present || skb->pkt_type != PACKET_TO_US)
		return TC_ACT_UNSPEC;
	skb->tc_index = MARK_ASKED; /* whatever it was on another host of this machine */
	pull(skb);
	if (!arrived(skb, &a))
		return TC_ACT_UNSPEC;
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
