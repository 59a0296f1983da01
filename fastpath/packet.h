/* What is read of a packet, and the few things that are changed in it as a router does. */
#pragma once

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#include "maps.h"

#define INLINE static __always_inline

/* Linux 6.3; headers may be older. */
#define DECAP_L3_IPV4 (1ULL << 7)
#define DECAP_L3_IPV6 (1ULL << 8)

#define IPV4_FRAGMENT 0x3fff /* more to come, or not the first: RFC 791 section 3.1 */
#define LONGEST_HEADERS 144  /* Ethernet, IPv6, UDP, VXLAN, Ethernet, IPv6, TCP */

enum form {
	FORM_PLAIN,    /* near_port and far_port can be told */
	FORM_PAIR,     /* a fragment or an ICMP error: its flow is not in its header */
	FORM_ODD,      /* for the kernel */
	FORM_LINK,     /* talk of the link itself, such as neighbour discovery */
};

struct packet {
	union address from, to;
	__u32 at;       /* of the network header */
	__u32 longest;  /* datagram once it is cut into segments, in bytes */
	__be16 from_port, to_port;
	__u8 protocol;
	__u8 ttl;
	__u8 tos;
	__u8 form;
	__u8 v6;
	__u8 flags; /* of TCP */
	__u8 piece; /* enum piece, and the following enum whence, once somebody asks */
	__u8 whence;
};

/* Where a packet comes from. */
enum whence {
	FROM_WIRE,
	FROM_ENDPOINT, /* that asks */
	FROM_INSIDE,   /* an endpoint that answers */
};

/* What of a flow a packet has. */
enum piece {
	PIECE_WHOLE,
	PIECE_FIRST, /* fragment, which has the ports */
	PIECE_LATER, /* fragment */
	PIECE_ERROR, /* of ICMP, about a packet that went the other way */
};

/* Makes the headers readable. */
INLINE void pull(struct __sk_buff *skb)
{
	__u32 linear = skb->data_end - skb->data, want = skb->len;

	if (want > LONGEST_HEADERS)
		want = LONGEST_HEADERS;
	if (linear < want)
		bpf_skb_pull_data(skb, want);
}

/* The size of the largest datagram that leaves when the kernel or the card cuts this one. */
INLINE __u32 longest(struct __sk_buff *skb, __u32 at, __u32 headers)
{
	__u32 size = skb->gso_size;

	return size ? size + headers : skb->len - at;
}

INLINE void read_ports(struct __sk_buff *skb, struct packet *p, __u32 at)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__u8 *transport = data + at;
	__u32 length = 8;

	p->form = FORM_PLAIN;
	switch (p->protocol) {
	case IPPROTO_TCP:
		if ((void *)transport + 20 > end) {
			p->form = FORM_ODD;
			return;
		}
		length = (transport[12] >> 4) * 4;
		p->flags = transport[13];
		break;
	case IPPROTO_UDP:
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		if ((void *)transport + 8 > end) {
			p->form = FORM_ODD;
			return;
		}
		break;
	default: /* whatever it is, its flow is known by protocol and addresses */
		p->longest = longest(skb, p->at, at - p->at);
		return;
	}
	p->longest = longest(skb, p->at, at - p->at + length);
	switch (p->protocol) {
	case IPPROTO_ICMP:
		if (transport[0] == 0 || transport[0] == 8) /* echo: its identifier is the same both ways */
			p->from_port = p->to_port = *(__be16 *)(transport + 4);
		else
			p->form = FORM_PAIR;
		return;
	case IPPROTO_ICMPV6:
		if (transport[0] == 128 || transport[0] == 129)
			p->from_port = p->to_port = *(__be16 *)(transport + 4);
		else
			p->form = transport[0] < 128 ? FORM_PAIR : FORM_LINK;
		return;
	}
	p->from_port = *(__be16 *)transport;
	p->to_port = *(__be16 *)(transport + 2);
}

/* Reads the packet whose network header is at a place. One that is too short is odd. */
INLINE void read4(struct __sk_buff *skb, struct packet *p, __u32 at)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct iphdr *ip = data + at;

	p->form = FORM_ODD;
	p->at = at;
	if ((void *)(ip + 1) > end || ip->version != 4)
		return;
	p->from.v4 = ip->saddr;
	p->to.v4 = ip->daddr;
	p->protocol = ip->protocol;
	p->ttl = ip->ttl;
	p->tos = ip->tos;
	if (ip->ihl != 5)
		return;
	if (ip->frag_off & bpf_htons(IPV4_FRAGMENT)) {
		p->form = FORM_PAIR;
		p->longest = skb->len - at;
		return;
	}
	read_ports(skb, p, at + sizeof(*ip));
}

INLINE void read6(struct __sk_buff *skb, struct packet *p, __u32 at)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ipv6hdr *ip = data + at;

	p->form = FORM_ODD;
	p->at = at;
	if ((void *)(ip + 1) > end || ip->version != 6)
		return;
	__builtin_memcpy(&p->from, &ip->saddr, 16);
	__builtin_memcpy(&p->to, &ip->daddr, 16);
	p->protocol = ip->nexthdr;
	p->ttl = ip->hop_limit;
	p->tos = ip->priority << 4 | ip->flow_lbl[0] >> 4;
	switch (p->protocol) {
	case IPPROTO_HOPOPTS:
	case IPPROTO_ROUTING:
	case IPPROTO_DSTOPTS:
	case IPPROTO_NONE:
		return;
	case IPPROTO_FRAGMENT:
		p->form = FORM_PAIR;
		p->longest = skb->len - at;
		return;
	}
	read_ports(skb, p, at + sizeof(*ip));
}

INLINE void read_packet(struct __sk_buff *skb, struct packet *p, __u32 at, bool v6)
{
	p->v6 = v6;
	if (v6)
		read6(skb, p, at);
	else
		read4(skb, p, at);
}

/* The second byte of a word of an IPv6 header is less: a card may have told the sum of all bytes, and no checksum of the
 * header makes up for it. Where none has, the helper refuses, which is no harm. */
INLINE void summed_less(struct __sk_buff *skb, __s32 by)
{
	bpf_csum_update(skb, by < 0 ? bpf_htons(-by) : ~(__u32)bpf_htons(by));
}

/* One hop less to live. The header has been read at this place. */
INLINE bool pass_on(struct __sk_buff *skb, __u32 at, bool v6)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	if (v6) {
		struct ipv6hdr *ip = data + at;

		if ((void *)(ip + 1) > end)
			return false;
		ip->hop_limit--;
		summed_less(skb, 1);
		return true;
	}
	struct iphdr *ip = data + at;
	__u32 sum;

	if ((void *)(ip + 1) > end)
		return false;
	sum = ip->check + (__u32)bpf_htons(0x0100); /* RFC 1624, for a time to live that is one less */
	ip->check = sum + (sum >= 0xffff);
	ip->ttl--;
	return true;
}

/* Puts on the mark of congestion that a wrapper had: RFC 6040 section 4.2. The packet is one that may bear it. */
INLINE void congest(struct __sk_buff *skb, __u32 at, bool v6)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	if (v6) {
		struct ipv6hdr *ip = data + at;

		if ((void *)(ip + 1) > end)
			return;
		summed_less(skb, (ip->flow_lbl[0] & 0x30) - 0x30);
		ip->flow_lbl[0] |= 0x30;
		return;
	}
	struct iphdr *ip = data + at;
	__u32 sum;

	if ((void *)(ip + 1) > end || (ip->tos & 3) == 3)
		return;
	sum = (__u16)~ip->check + (__u32)(__u16)~bpf_htons(ip->tos) + bpf_htons(ip->tos | 3);
	sum = (sum & 0xffff) + (sum >> 16);
	ip->check = ~(sum + (sum >> 16));
	ip->tos |= 3;
}
