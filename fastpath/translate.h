/* Changing the addresses and ports of a packet, with its checksums: RFC 1624. All of it is of packets without a wrapper. */
#pragma once

#include <linux/tcp.h>
#include <linux/udp.h>

#include "look.h"
#include "trace.h"

/* What the sum of two addresses changes by when they become others. */
INLINE __u32 readdressed(union address *from, union address *to, union address *new_from, union address *new_to)
{
	__u64 sum = 0;

#pragma unroll
	for (int i = 0; i < 4; i++)
		sum += (__u64)(__u32)~from->v6[i] + (__u32)~to->v6[i] + new_from->v6[i] + new_to->v6[i];
	sum = (sum & 0xffffffff) + (sum >> 32);
	return (sum & 0xffffffff) + (sum >> 32);
}

INLINE __u32 both(__be16 from_port, __be16 to_port) { return from_port | (__u32)to_port << 16; }

INLINE __u16 folded(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return sum + (sum >> 16);
}

/* Writes addresses into an IPv4 header, with its checksum, and ports behind it unless they are none. */
INLINE void write4(struct iphdr *ip, __be32 from, __be32 to, __u32 change, bool has_ports, __u32 ports)
{
	__u32 sum = (__u16)~ip->check + (__u32)folded(change);

	ip->check = ~folded(sum);
	ip->saddr = from;
	ip->daddr = to;
	if (has_ports)
		__builtin_memcpy(ip + 1, &ports, 4);
}

INLINE void write6(struct ipv6hdr *ip, union address *from, union address *to)
{
	__builtin_memcpy(&ip->saddr, from, 16);
	__builtin_memcpy(&ip->daddr, to, 16);
}

/* A card may have told the sum of all bytes. The helper holds that it changes with the addresses, as it does with those of
 * IPv4, whose header has a sum of its own; in IPv6 the two changes are each other's opposite. */
INLINE bool summed_as(struct __sk_buff *skb, __u32 at, __u32 change, __u64 flags, bool v6)
{
	if (bpf_l4_csum_replace(skb, at, 0, change, BPF_F_PSEUDO_HDR | flags))
		return false;
	if (v6)
		bpf_csum_update(skb, change);
	return true;
}

/* Changes the checksum of TCP or UDP behind a header of so many bytes. */
INLINE bool resum(struct __sk_buff *skb, struct packet *p, __u32 at, __u32 change, __be16 from_port, __be16 to_port, bool v6)
{
	__u32 ports = (__u32)(__u16)~p->from_port + (__u16)~p->to_port + from_port + to_port;
	__u64 none = 0;
	__u16 sum;

	at += p->protocol == IPPROTO_TCP ? 16 : 6;
	if (p->protocol == IPPROTO_UDP) {
		none = BPF_F_MARK_MANGLED_0;
		if (bpf_skb_load_bytes(skb, at, &sum, sizeof(sum)))
			return false;
		if (!sum) { /* there is none, and nothing makes up for what changes */
			bpf_csum_update(skb, ports);
			if (v6)
				bpf_csum_update(skb, change);
			return true;
		}
	}
	return summed_as(skb, at, change, none, v6) && !bpf_l4_csum_replace(skb, at, 0, ports, none);
}

INLINE bool rewrite4(struct __sk_buff *skb, struct packet *p, union address *from, union address *to, __be16 from_port, __be16 to_port)
{
	__u32 change = readdressed(&p->from, &p->to, from, to);
	bool has_ports = p->piece != PIECE_LATER;

	if (has_ports && !resum(skb, p, ETH_HLEN + sizeof(struct iphdr), change, from_port, to_port, false))
		return false;
	struct iphdr *ip = (void *)(long)skb->data + ETH_HLEN;

	if ((void *)(ip + 1) > (void *)(long)skb->data_end || (has_ports && (void *)(ip + 1) + 4 > (void *)(long)skb->data_end))
		return false;
	write4(ip, from->v4, to->v4, change, has_ports, both(from_port, to_port));
	return true;
}

INLINE bool rewrite6(struct __sk_buff *skb, struct packet *p, union address *from, union address *to, __be16 from_port, __be16 to_port)
{
	__u32 change = readdressed(&p->from, &p->to, from, to), ports = both(from_port, to_port);
	__u32 at = ETH_HLEN + sizeof(struct ipv6hdr) + (p->piece == PIECE_FIRST ? 8 : 0);

	if (p->piece != PIECE_LATER && !resum(skb, p, at, change, from_port, to_port, true))
		return false;
	struct ipv6hdr *ip = (void *)(long)skb->data + ETH_HLEN;
	void *end = (void *)(long)skb->data_end, *behind = ip + 1;

	if (behind > end)
		return false;
	write6(ip, from, to);
	if (p->piece == PIECE_LATER)
		return true;
	if (p->piece == PIECE_FIRST)
		behind += 8; /* the fragment header: RFC 8200 section 4.5 */
	if (behind + 4 > end)
		return false;
	__builtin_memcpy(behind, &ports, 4);
	return true;
}

/* Gives a packet other addresses, and other ports where it has some. False: it is spoilt. */
INLINE bool rewrite(struct __sk_buff *skb, struct packet *p, union address *from, union address *to, __be16 from_port, __be16 to_port)
{
	if (!(p->v6 ? rewrite6(skb, p, from, to, from_port, to_port) : rewrite4(skb, p, from, to, from_port, to_port)))
		return false;
	p->from = *from;
	p->to = *to;
	p->from_port = from_port;
	p->to_port = to_port;
	return true;
}
