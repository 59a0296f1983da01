/* Outer headers: RFC 2003 for IPIP, RFC 7348 for VXLAN. */
#pragma once

#include <linux/udp.h>

#include "guard.h"

struct vxlan {
	__be32 flags;
	__be32 vni; /* and eight bits of zero */
};

#define VXLAN_HAS_VNI 0x08000000
#define OUTER_TTL 64
#define LEAST_PORT 0xc000 /* of VXLAN's source ports: RFC 7348 section 5 */

struct inside {
	struct udphdr udp;
	struct vxlan vxlan;
	struct ethhdr eth;
} __attribute__((packed, aligned(2)));

INLINE __u16 sum4(struct iphdr *ip)
{
	__u16 *word = (__u16 *)ip;
	__u32 sum = 0;

#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += word[i];
	sum = (sum & 0xffff) + (sum >> 16);
	return ~(sum + (sum >> 16));
}

INLINE void outer4(struct iphdr *ip, struct hop *h, __u8 protocol, __u32 length, __u8 tos)
{
	__builtin_memset(ip, 0, sizeof(*ip));
	ip->version = 4;
	ip->ihl = 5;
	ip->tos = tos & 3; /* the mark of congestion goes with the packet, RFC 6040 section 4.1 */
	ip->tot_len = bpf_htons(length);
	ip->frag_off = bpf_htons(0x4000); /* never cut on the way */
	ip->ttl = OUTER_TTL;
	ip->protocol = protocol;
	ip->saddr = h->local.v4;
	ip->daddr = h->end.v4;
	ip->check = sum4(ip);
}

INLINE void outer6(struct ipv6hdr *ip, struct hop *h, __u32 length, __u32 hash, __u8 tos)
{
	__builtin_memset(ip, 0, sizeof(*ip));
	*(__be32 *)ip = bpf_htonl(0x60000000 | (__u32)(tos & 3) << 20 | (hash & 0xfffff)); /* RFC 6438 section 3 */
	ip->payload_len = bpf_htons(length);
	ip->nexthdr = IPPROTO_UDP;
	ip->hop_limit = OUTER_TTL;
	__builtin_memcpy(&ip->saddr, &h->local, 16);
	__builtin_memcpy(&ip->daddr, &h->end, 16);
}

INLINE int wrap_ipip(struct __sk_buff *skb, struct hop *h, struct packet *p)
{
	__u32 length = skb->len - ETH_HLEN + sizeof(struct iphdr);
	struct iphdr *ip;

	if (length > 0xffff || h->family != 4 ||
	    bpf_skb_adjust_room(skb, sizeof(*ip), BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4))
		return -1;
	ip = (void *)(long)skb->data + ETH_HLEN;
	if ((void *)(ip + 1) > (void *)(long)skb->data_end)
		return -2;
	outer4(ip, h, IPPROTO_IPIP, length, p->tos);
	return 0;
}

INLINE void fill_inside(struct inside *in, struct hop *h, struct settings *s, __u32 length, __u32 hash, bool v6)
{
	__builtin_memset(in, 0, sizeof(*in));
	in->udp.source = bpf_htons(LEAST_PORT | (hash & 0x3fff));
	in->udp.dest = s->port;
	in->udp.len = bpf_htons(length);
	in->vxlan.flags = bpf_htonl(VXLAN_HAS_VNI);
	in->vxlan.vni = bpf_htonl(s->vni << 8);
	__builtin_memcpy(in->eth.h_dest, h->mac, ETH_ALEN);
	__builtin_memcpy(in->eth.h_source, h->family == 6 ? s->mac6 : s->mac4, ETH_ALEN);
	in->eth.h_proto = v6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);
}

#define WRAP_VXLAN (BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L4_UDP | BPF_F_ADJ_ROOM_ENCAP_L2_ETH | \
		    BPF_F_ADJ_ROOM_ENCAP_L2(ETH_HLEN))

INLINE int wrap_vxlan4(struct __sk_buff *skb, struct hop *h, struct packet *p, struct settings *s, bool v6)
{
	__u32 length = skb->len - ETH_HLEN + sizeof(struct inside), hash = bpf_get_hash_recalc(skb);
	struct ethhdr *eth;
	struct iphdr *ip;

	if (length + sizeof(*ip) > 0xffff ||
	    bpf_skb_adjust_room(skb, sizeof(*ip) + sizeof(struct inside), BPF_ADJ_ROOM_MAC, WRAP_VXLAN | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4))
		return -1;
	eth = (void *)(long)skb->data;
	ip = (void *)(eth + 1);
	if ((void *)(ip + 1) + sizeof(struct inside) > (void *)(long)skb->data_end)
		return -2;
	outer4(ip, h, IPPROTO_UDP, length + sizeof(*ip), p->tos);
	fill_inside((void *)(ip + 1), h, s, length, hash, v6);
	eth->h_proto = bpf_htons(ETH_P_IP); /* the kernel has changed skb->protocol alone */
	return 0;
}

/* Of IPv6 a checksum of zero is allowed for tunnels: RFC 6935. The kernel's device is told to take it. */
INLINE int wrap_vxlan6(struct __sk_buff *skb, struct hop *h, struct packet *p, struct settings *s, bool v6)
{
	__u32 length = skb->len - ETH_HLEN + sizeof(struct inside), hash = bpf_get_hash_recalc(skb);
	struct ethhdr *eth;
	struct ipv6hdr *ip;

	if (length > 0xffff ||
	    bpf_skb_adjust_room(skb, sizeof(*ip) + sizeof(struct inside), BPF_ADJ_ROOM_MAC, WRAP_VXLAN | BPF_F_ADJ_ROOM_ENCAP_L3_IPV6))
		return -1;
	eth = (void *)(long)skb->data;
	ip = (void *)(eth + 1);
	if ((void *)(ip + 1) + sizeof(struct inside) > (void *)(long)skb->data_end)
		return -2;
	outer6(ip, h, length, hash, p->tos);
	fill_inside((void *)(ip + 1), h, s, length, hash, v6);
	eth->h_proto = bpf_htons(ETH_P_IPV6);
	return 0;
}

/* 0 when the packet has its outer header, -1 when it is unchanged, -2 when it is spoilt. */
INLINE int wrap(struct __sk_buff *skb, struct hop *h, struct packet *p, bool v6)
{
	struct settings *s;

	if (h->encap == ENCAP_DIRECT)
		return 0;
	if (h->encap == ENCAP_IPIP)
		return v6 ? -1 : wrap_ipip(skb, h, p);
	s = settings_here();
	if (!s)
		return -1;
	return h->family == 6 ? wrap_vxlan6(skb, h, p, s, v6) : wrap_vxlan4(skb, h, p, s, v6);
}
