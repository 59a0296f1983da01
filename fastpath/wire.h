/* What comes in from the wire: in the open, or in a wrapper of a node that is known. */
#pragma once

#include "wrap.h"

#define PACKET_TO_US 0 /* PACKET_HOST of linux/if_packet.h */

struct arrival {
	struct packet packet; /* the inner one, where there is a wrapper */
	__u32 slot;           /* of the counts of the route back */
	__u32 wrapper;        /* what is taken off after the Ethernet header, in bytes */
	__u8 encap;
	__u8 reason;
	bool v6;              /* the packet */
	bool outer6;          /* the wrapper */
	bool congested;       /* the wrapper says so */
	bool leftover;        /* what is not for an endpoint is unwrapped too, since no device would */
};

INLINE __u32 overhead_of(struct hop *h)
{
	__u32 outer = h->family == 6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);

	switch (h->encap) {
	case ENCAP_IPIP:
		return sizeof(struct iphdr);
	case ENCAP_VXLAN:
		return outer + sizeof(struct inside);
	}
	return 0;
}

/* Whether an outer header is meant for this node. */
INLINE bool is_for_here(struct settings *s, struct packet *outer, bool v6)
{
	if (v6)
		return outer->to.v6[0] == s->local6[0] && outer->to.v6[1] == s->local6[1] &&
		       outer->to.v6[2] == s->local6[2] && outer->to.v6[3] == s->local6[3];
	return outer->to.v4 == s->local4;
}

/* Reads what is inside of VXLAN. False: it is nothing for us. */
INLINE bool inside_vxlan(struct __sk_buff *skb, struct arrival *a, struct settings *s, __u32 at)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct inside *in = data + at;
	__u8 mac[6];

	if ((void *)(in + 1) > end || in->vxlan.flags != bpf_htonl(VXLAN_HAS_VNI) || in->vxlan.vni != bpf_htonl(s->vni << 8))
		return false;
	__builtin_memcpy(mac, in->eth.h_dest, 6);
	if (!same_mac(mac, a->outer6 ? s->mac6 : s->mac4))
		return false;
	if (in->eth.h_proto == bpf_htons(ETH_P_IPV6))
		a->v6 = true;
	else if (in->eth.h_proto != bpf_htons(ETH_P_IP))
		return false;
	a->encap = ENCAP_VXLAN;
	a->reason = FAST_FROM_VXLAN;
	a->wrapper = at - ETH_HLEN + sizeof(*in);
	return true;
}

/* Leaves a wrapper to the kernel. */
INLINE bool refuse(struct arrival *a)
{
	because(KERNEL_TUNNEL);
	a->encap = 0;
	return false;
}

/* Takes off the outer header in thought. False: there is none of ours, or it is the kernel's and of no encapsulation. */
INLINE bool look_inside(struct __sk_buff *skb, struct arrival *a)
{
	struct settings *s = settings_here();
	__u32 at = ETH_HLEN + (a->outer6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
	bool ipip = !a->outer6 && a->packet.protocol == IPPROTO_IPIP;

	if (!s)
		return false;
	if (ipip) {
		if (!(s->flags & TAKES_IPIP))
			return false;
	} else if (a->packet.protocol != IPPROTO_UDP || !(s->flags & TAKES_VXLAN) || a->packet.to_port != s->port) {
		return false;
	}
	if (!is_for_here(s, &a->packet, a->outer6))
		return false;
	if (a->packet.form != FORM_PLAIN || !(s->flags & TAKES_ALL || is_node(&a->packet.from, a->outer6)))
		return refuse(a);
	a->congested = (a->packet.tos & 3) == 3;
	a->v6 = false;
	if (ipip) {
		a->encap = ENCAP_IPIP;
		a->reason = FAST_FROM_IPIP;
		a->wrapper = sizeof(struct iphdr);
		a->leftover = s->flags & LACKS_IPIP;
		return true;
	}
	if (!inside_vxlan(skb, a, s, at) || (a->v6 != a->outer6 && !(s->flags & CROSSES)))
		return refuse(a);
	return true;
}

/* Reads a packet that comes in. False: it is the kernel's. */
INLINE bool arrived(struct __sk_buff *skb, struct arrival *a)
{
	if (skb->protocol == bpf_htons(ETH_P_IP))
		read_packet(skb, &a->packet, ETH_HLEN, false);
	else if (skb->protocol == bpf_htons(ETH_P_IPV6))
		read_packet(skb, &a->packet, ETH_HLEN, true);
	else
		return false;
	a->outer6 = a->v6 = skb->protocol == bpf_htons(ETH_P_IPV6);
	a->encap = ENCAP_DIRECT;
	a->reason = FAST_FROM_DIRECT;
	if (a->packet.protocol == IPPROTO_IPIP || a->packet.protocol == IPPROTO_UDP) {
		if (!look_inside(skb, a))
			return a->encap == ENCAP_DIRECT;
		__builtin_memset(&a->packet, 0, sizeof(a->packet));
		read_packet(skb, &a->packet, ETH_HLEN + a->wrapper, a->v6);
		if (a->congested && !(a->packet.tos & 3))
			return refuse(a); /* it is to be dropped, and the kernel's device does so: RFC 6040 section 4.2 */
	}
	return true;
}

/* Counts a packet that is left to the kernel, and tells of it. */
INLINE void passed(struct __sk_buff *skb, struct packet *p, __u32 reason)
{
	because(reason);
	trace(skb, p, reason);
}

/* The endpoint that the packet goes to by the fast path, NULL when it is the kernel's. */
INLINE struct endpoint *accept_packet(struct __sk_buff *skb, struct arrival *a, bool v6)
{
	struct packet *p = &a->packet;
	struct endpoint *to;
	struct route *back;

	to = p->form == FORM_ODD || p->form == FORM_LINK ? NULL : endpoint_of(&p->to, v6);
	if (!to) {
		if (a->wrapper)
			because(KERNEL_TUNNEL);
		trace(skb, p, a->wrapper ? KERNEL_TUNNEL : KERNEL_ROUTE);
		return NULL;
	}
	back = route_to(&p->from, v6);
	if (!back) {
		passed(skb, p, KERNEL_ROUTE);
		return NULL;
	}
	a->slot = back->slot;
	if (to->realm) {
		passed(skb, p, KERNEL_REALM);
		return NULL;
	}
	/* From now on the packet is known: what the kernel does with it is no translation. */
	skb->tc_index = MARK_SEEN;
	if (p->ttl <= 1) {
		passed(skb, p, KERNEL_TTL);
		return NULL;
	}
	if (p->longest > to->mtu) {
		passed(skb, p, KERNEL_SIZE);
		return NULL;
	}
	if (is_kernels(p, v6, false)) {
		passed(skb, p, KERNEL_FLOW);
		return NULL;
	}
	return to;
}

/* Takes the wrapper off, of which the mark of congestion stays. Not 0: the packet is as it came. */
INLINE int unwrap(struct __sk_buff *skb, struct arrival *a)
{
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO;

	if (!a->wrapper)
		return 0;
	if (a->v6 != a->outer6)
		flags |= a->v6 ? DECAP_L3_IPV6 : DECAP_L3_IPV4;
	if (bpf_skb_adjust_room(skb, -(__s32)a->wrapper, BPF_ADJ_ROOM_MAC, flags))
		return -1;
	struct ethhdr *eth = (void *)(long)skb->data;

	if ((void *)(eth + 1) > (void *)(long)skb->data_end)
		return -1;
	eth->h_proto = a->v6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);
	if (a->congested)
		congest(skb, ETH_HLEN, a->v6);
	return 0;
}

/* Leaves the packet to the kernel: as it came where a device takes it, and unwrapped where none does. It then comes in by the
 * device to which the kernel's own route back leads, or a strict filter of reverse paths would drop it. */
INLINE int leave(struct __sk_buff *skb, struct arrival *a)
{
	struct settings *s = settings_here();

	if (!a->leftover || !s || unwrap(skb, a) || !s->device)
		return TC_ACT_UNSPEC;
	struct ethhdr *eth = (void *)(long)skb->data;

	if ((void *)(eth + 1) > (void *)(long)skb->data_end)
		return TC_ACT_UNSPEC;
	__builtin_memcpy(eth->h_dest, s->mac4, ETH_ALEN);
	return bpf_redirect(s->device, BPF_F_INGRESS);
}
