/* Telling of single packets, while somebody follows those between two addresses. */
#pragma once

#include "packet.h"

/* Who is followed. There is one of it. */
struct pair {
	__u32 family;       /* 4 or 6; 0: nobody follows */
	__u32 lost;         /* packets that there was no room to tell of */
	union address a, b; /* in either direction */
};

/* One packet. */
struct sighting {
	__u64 time; /* since the boot, in nanoseconds */
	union address from, to;
	__u32 link;
	__u32 length; /* in bytes, with the Ethernet header */
	__u32 reason; /* enum reason */
	__be16 from_port, to_port;
	__u8 family;
	__u8 protocol;
	__u8 ttl;
	__u8 pad;
	__u32 lost; /* of struct pair */
};

TABLE(fl_trace, BPF_MAP_TYPE_ARRAY, __u32, struct pair, 1, 0);

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} fl_events SEC(".maps");

INLINE bool same_address(union address *a, union address *b)
{
	return a->v6[0] == b->v6[0] && a->v6[1] == b->v6[1] && a->v6[2] == b->v6[2] && a->v6[3] == b->v6[3];
}

/* Tells of a packet if it is one of those. No part of each caller: it is for the rare case. */
static __noinline int tell(struct __sk_buff *skb, struct packet *p, __u32 reason)
{
	__u32 zero = 0;
	struct pair *who = bpf_map_lookup_elem(&fl_trace, &zero);
	struct sighting *s;

	if (!who || !p || who->family != (p->v6 ? 6 : 4))
		return 0;
	if (!(same_address(&who->a, &p->from) && same_address(&who->b, &p->to)) &&
	    !(same_address(&who->b, &p->from) && same_address(&who->a, &p->to)))
		return 0;
	s = bpf_ringbuf_reserve(&fl_events, sizeof(*s), 0);
	if (!s) {
		__sync_fetch_and_add(&who->lost, 1);
		return 0;
	}
	__builtin_memset(s, 0, sizeof(*s));
	s->time = bpf_ktime_get_ns();
	__builtin_memcpy(&s->from, &p->from, sizeof(s->from));
	__builtin_memcpy(&s->to, &p->to, sizeof(s->to));
	s->link = skb->ifindex;
	s->length = skb->len;
	s->reason = reason;
	s->from_port = p->from_port;
	s->to_port = p->to_port;
	s->family = p->v6 ? 6 : 4;
	s->protocol = p->protocol;
	s->ttl = p->ttl;
	s->lost = who->lost;
	bpf_ringbuf_submit(s, 0);
	return 0;
}

/* Says what becomes of a packet. While nobody follows, it costs one look. */
INLINE void trace(struct __sk_buff *skb, struct packet *p, __u32 reason)
{
	__u32 zero = 0;
	struct pair *who = bpf_map_lookup_elem(&fl_trace, &zero);

	if (who && who->family)
		tell(skb, p, reason);
}
