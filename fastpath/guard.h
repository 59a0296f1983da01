/* Who an endpoint may be: what it sends has its own addresses, or is dropped. */
#pragma once

#include <linux/pkt_cls.h>

#include "look.h"
#include "trace.h"

/* What the programs at the ingress leave for those at the egress, in tc_index. One that was asked for in vain, and of which
 * both ends are known at the egress, was translated between. One that was seen went to the kernel though both ends were
 * known. Of one without a mark nobody knows what it was when it came in. */
enum mark {
	MARK_ASKED = 0xf1aa,
	MARK_FAST = 0xf1a5,
	MARK_SEEN = 0xf1ac,
};

static __noinline int drop(struct __sk_buff *skb, __u32 reason)
{
	__u32 link = skb->ifindex;
	struct side *s = bpf_map_lookup_elem(&fl_sides, &link);

	because(reason);
	if (s)
		COUNT(s->slot, drops, skb->len);
	return TC_ACT_SHOT;
}

INLINE bool same_mac(__u8 *a, __u8 *b)
{
	return *(__u32 *)a == *(__u32 *)b && *(__u16 *)(a + 4) == *(__u16 *)(b + 4);
}

/* Whether an address is one of the container's that has this link. One may answer for its other networks too. */
INLINE bool is_own(struct __sk_buff *skb, struct endpoint *e, struct side *s)
{
	return e && (e->link == skb->ifindex || (e->home && e->home == s->home));
}

/* Who sent a frame that is neither IPv4 nor IPv6: only its hardware address is to be checked. */
INLINE int check_other(struct __sk_buff *skb)
{
	__u32 link = skb->ifindex;
	struct side *s = bpf_map_lookup_elem(&fl_sides, &link);
	struct ethhdr *eth = (void *)(long)skb->data;
	__u8 mac[6];

	if (!s)
		return TC_ACT_UNSPEC;
	if ((void *)(eth + 1) > (void *)(long)skb->data_end)
		return drop(skb, DROP_MAC);
	__builtin_memcpy(mac, eth->h_source, 6);
	if (!same_mac(mac, s->mac))
		return drop(skb, DROP_MAC);
	because(KERNEL_PROTOCOL);
	return TC_ACT_UNSPEC;
}

/* RFC 826, for IPv4 over Ethernet. */
struct arp {
	__be16 hardware, protocol;
	__u8 hardware_length, protocol_length;
	__be16 operation;
	__u8 sender_mac[6];
	__be32 sender;
	__u8 target_mac[6];
	__be32 target;
} __attribute__((packed));

/* The sender of a question or an answer is the container. One that looks whether an address is free has none: RFC 5227. */
INLINE int check_arp(struct __sk_buff *skb)
{
	__u32 link = skb->ifindex;
	struct side *s = bpf_map_lookup_elem(&fl_sides, &link);
	struct ethhdr *eth = (void *)(long)skb->data;
	struct arp *arp = (void *)(eth + 1);
	union address sender = {};
	__u8 mac[6], within[6];

	if (!s)
		return TC_ACT_UNSPEC;
	if ((void *)(arp + 1) > (void *)(long)skb->data_end)
		return drop(skb, DROP_ARP);
	__builtin_memcpy(mac, eth->h_source, 6);
	if (!same_mac(mac, s->mac))
		return drop(skb, DROP_MAC);
	__builtin_memcpy(within, arp->sender_mac, 6);
	sender.v4 = arp->sender;
	if (arp->hardware != bpf_htons(1) || arp->protocol != bpf_htons(ETH_P_IP) ||
	    arp->hardware_length != 6 || arp->protocol_length != 4 || !same_mac(within, s->mac))
		return drop(skb, DROP_ARP);
	if (sender.v4 && !is_own(skb, endpoint_of(&sender, false), s))
		return drop(skb, DROP_ARP);
	because(KERNEL_PROTOCOL);
	return TC_ACT_UNSPEC;
}

/* What a container may say to its link alone: IPv6 from an address that is no endpoint's, to find out about the link. */
INLINE bool is_link_talk(struct packet *p, bool v6)
{
	if (!v6)
		return false;
	if (p->to.v6[0] != bpf_htonl(0xfe800000) && (p->to.v6[0] & bpf_htonl(0xff000000)) != bpf_htonl(0xff000000))
		return false;
	if ((p->from.v6[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000))
		return true;
	return !p->from.v6[0] && !p->from.v6[1] && !p->from.v6[2] && !p->from.v6[3];
}

/* Drops a packet that is not its sender's. */
INLINE int forged(struct __sk_buff *skb, struct packet *p, __u32 reason)
{
	trace(skb, p, reason);
	return drop(skb, reason);
}

/* -1 and the endpoint that the packet is from, or what is to become of the packet. */
INLINE int check_source(struct __sk_buff *skb, struct packet *p, bool v6, struct endpoint **from)
{
	struct ethhdr *eth = (void *)(long)skb->data;
	struct endpoint *e;
	__u32 link = skb->ifindex;
	struct side *s;
	__u8 mac[6];

	if ((void *)(eth + 1) > (void *)(long)skb->data_end)
		return forged(skb, p, DROP_MAC);
	__builtin_memcpy(mac, eth->h_source, 6);
	e = endpoint_of(&p->from, v6);
	if (e && e->link == skb->ifindex) {
		if (!same_mac(mac, e->mac))
			return forged(skb, p, DROP_MAC);
		*from = e;
		return -1;
	}
	s = bpf_map_lookup_elem(&fl_sides, &link);
	if (!s)
		return TC_ACT_OK; /* a link that is about to be known, or about to go */
	if (!same_mac(mac, s->mac))
		return forged(skb, p, DROP_MAC);
	if (is_own(skb, e, s)) {
		*from = e;
		return -1;
	}
	if (is_link_talk(p, v6)) {
		because(KERNEL_PROTOCOL);
		return TC_ACT_OK;
	}
	return forged(skb, p, DROP_SOURCE);
}
