/* Errors of ICMP, which quote the packet that they are about: RFC 792, RFC 4443. Its addresses change with the error's, or
 * whoever sent it would not know it again: RFC 5508. */
#pragma once

#include "translate.h"

/* What is quoted, which went the other way than the error. */
struct quote {
	union address from, to;
	__be16 from_port, to_port;
	__u8 protocol;
	__u8 pad[3];
};

/* What a stack has no room for. No program of ours interrupts another on its processor: all run with bottom halves off. */
struct scratch {
	struct quote quote, as;
	struct datagram datagram;
	struct tuple outside, inside, other;
	struct connection connection;
};

TABLE(scratch_space, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct scratch, 1, 0);

INLINE struct scratch *scratch(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&scratch_space, &zero);
}

struct quoting4 {
	struct iphdr outer;
	__u8 type, code;
	__be16 check;
	__be32 rest;
	struct iphdr ip;
	__be16 from_port, to_port;
};

struct quoting6 {
	struct ipv6hdr outer;
	__u8 type, code;
	__be16 check;
	__be32 rest;
	struct ipv6hdr ip;
	__be16 from_port, to_port;
};

INLINE bool is_mapped_protocol(__u8 protocol) { return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP; }

/* Reads the quote of an error. False: it is none, or nothing can be told from it. */
INLINE bool read_quote(struct __sk_buff *skb, struct packet *p, struct quote *q)
{
	void *data = (void *)(long)skb->data + ETH_HLEN, *end = (void *)(long)skb->data_end;

	if (p->at != ETH_HLEN)
		return false;
	if (p->v6) {
		struct quoting6 *six = data;

		if ((void *)(six + 1) > end || p->protocol != IPPROTO_ICMPV6 || six->type < 1 || six->type > 4 || six->ip.version != 6)
			return false;
		__builtin_memcpy(&q->from, &six->ip.saddr, 16);
		__builtin_memcpy(&q->to, &six->ip.daddr, 16);
		q->from_port = six->from_port;
		q->to_port = six->to_port;
		q->protocol = six->ip.nexthdr;
		return is_mapped_protocol(q->protocol);
	}
	struct quoting4 *four = data;

	if ((void *)(four + 1) > end || p->protocol != IPPROTO_ICMP || (four->type != 3 && four->type != 11 && four->type != 12))
		return false;
	if (four->ip.version != 4 || four->ip.ihl != 5 || four->ip.frag_off & bpf_htons(0x1fff))
		return false;
	__builtin_memset(q, 0, sizeof(*q));
	q->from.v4 = four->ip.saddr;
	q->to.v4 = four->ip.daddr;
	q->from_port = four->from_port;
	q->to_port = four->to_port;
	q->protocol = four->ip.protocol;
	return is_mapped_protocol(q->protocol);
}

/* Gives an error other addresses, and its quote others too. The checksum of TCP or UDP within the quote stays: nobody asks for
 * it, and it is seldom whole. False: it is spoilt. */
INLINE bool requote4(struct __sk_buff *skb, struct packet *p, union address *from, union address *to, struct quote *q, struct quote *as)
{
	__u32 sum = ETH_HLEN + sizeof(struct iphdr) + 2;
	__u32 ports = (__u32)(__u16)~q->from_port + (__u16)~q->to_port + as->from_port + as->to_port;

	/* In the quote the addresses and the header's own checksum are each other's opposite. */
	if (bpf_l4_csum_replace(skb, sum, 0, ports, 0))
		return false;
	struct quoting4 *four = (void *)(long)skb->data + ETH_HLEN;

	if ((void *)(four + 1) > (void *)(long)skb->data_end)
		return false;
	write4(&four->outer, from->v4, to->v4, readdressed(&p->from, &p->to, from, to), false, 0);
	write4(&four->ip, as->from.v4, as->to.v4, readdressed(&q->from, &q->to, &as->from, &as->to), false, 0);
	four->from_port = as->from_port;
	four->to_port = as->to_port;
	return true;
}

INLINE bool requote6(struct __sk_buff *skb, struct packet *p, union address *from, union address *to, struct quote *q, struct quote *as)
{
	__u32 sum = ETH_HLEN + sizeof(struct ipv6hdr) + 2;
	__u64 within = (__u64)readdressed(&q->from, &q->to, &as->from, &as->to) + (__u16)~q->from_port + (__u16)~q->to_port + as->from_port + as->to_port;

	within = (within & 0xffffffff) + (within >> 32);
	if (!summed_as(skb, sum, readdressed(&p->from, &p->to, from, to), 0, true) || bpf_l4_csum_replace(skb, sum, 0, within, 0))
		return false;
	struct quoting6 *six = (void *)(long)skb->data + ETH_HLEN;

	if ((void *)(six + 1) > (void *)(long)skb->data_end)
		return false;
	write6(&six->outer, from, to);
	write6(&six->ip, &as->from, &as->to);
	six->from_port = as->from_port;
	six->to_port = as->to_port;
	return true;
}
