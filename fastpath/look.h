/* What the maps say of a packet. */
#pragma once

#include "packet.h"

INLINE struct endpoint *endpoint_of(union address *a, bool v6)
{
	return v6 ? bpf_map_lookup_elem(&fl_endpoints6, a) : bpf_map_lookup_elem(&fl_endpoints4, &a->v4);
}

/* A route without hops is the kernel's, also within the prefix of another. */
INLINE struct route *route_to(union address *a, bool v6)
{
	struct route *r;

	if (v6) {
		struct prefix6 key = { .bits = 128 };

		__builtin_memcpy(key.address, a, 16);
		r = bpf_map_lookup_elem(&fl_routes6, &key);
	} else {
		struct prefix4 key = { .bits = 32, .address = a->v4 };

		r = bpf_map_lookup_elem(&fl_routes4, &key);
	}
	return r && r->hops ? r : NULL;
}

INLINE bool is_node(union address *a, bool v6)
{
	return v6 ? bpf_map_lookup_elem(&fl_nodes6, a) : bpf_map_lookup_elem(&fl_nodes4, &a->v4);
}

INLINE struct settings *settings_here(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&fl_settings, &zero);
}

/* The count of a reason. */
INLINE void because(__u32 reason)
{
	__u64 *n = bpf_map_lookup_elem(&fl_reasons, &reason);

	if (n)
		*n += 1;
}

INLINE struct counts *counts_at(__u32 slot) { return bpf_map_lookup_elem(&fl_counts, &slot); }

#define COUNT(slot, what, length) \
	do { \
		struct counts *c_ = counts_at(slot); \
		if (c_) { \
			c_->what.packets++; \
			c_->what.bytes += (length); \
		} \
	} while (0)

/* The flow of a packet that goes out from an endpoint, or comes in to one. */
INLINE void flow4_of(struct packet *p, bool out, struct flow4 *f)
{
	__builtin_memset(f, 0, sizeof(*f));
	f->near = out ? p->from.v4 : p->to.v4;
	f->far = out ? p->to.v4 : p->from.v4;
	if (p->form == FORM_PAIR)
		return;
	f->near_port = out ? p->from_port : p->to_port;
	f->far_port = out ? p->to_port : p->from_port;
	f->protocol = p->protocol;
}

INLINE void flow6_of(struct packet *p, bool out, struct flow6 *f)
{
	__builtin_memset(f, 0, sizeof(*f));
	__builtin_memcpy(f->near, out ? &p->from : &p->to, 16);
	__builtin_memcpy(f->far, out ? &p->to : &p->from, 16);
	if (p->form == FORM_PAIR)
		return;
	f->near_port = out ? p->from_port : p->to_port;
	f->far_port = out ? p->to_port : p->from_port;
	f->protocol = p->protocol;
}

/* Whether the kernel has translated the packet's flow, which then stays with it. */
INLINE bool is_kernels(struct packet *p, bool v6, bool out)
{
	if (v6) {
		struct flow6 f;

		flow6_of(p, out, &f);
		return bpf_map_lookup_elem(&fl_flows6, &f);
	}
	struct flow4 f;

	flow4_of(p, out, &f);
	return bpf_map_lookup_elem(&fl_flows4, &f);
}

/* Notes that the kernel carries the packet's flow, and that it carries one between this pair. */
INLINE void is_now_kernels(struct packet *p, bool v6, bool out)
{
	__u64 now = bpf_ktime_get_ns();

	if (v6) {
		struct flow6 f;

		flow6_of(p, out, &f);
		bpf_map_update_elem(&fl_flows6, &f, &now, BPF_ANY);
		p->form = FORM_PAIR;
		flow6_of(p, out, &f);
		bpf_map_update_elem(&fl_flows6, &f, &now, BPF_ANY);
		return;
	}
	struct flow4 f;

	flow4_of(p, out, &f);
	bpf_map_update_elem(&fl_flows4, &f, &now, BPF_ANY);
	p->form = FORM_PAIR;
	flow4_of(p, out, &f);
	bpf_map_update_elem(&fl_flows4, &f, &now, BPF_ANY);
}

/* Which of several next hops the packet's flow takes: the same for all of its packets, fragments and errors included. */
INLINE __u32 pick(struct packet *p, bool v6, __u32 hops)
{
	__u32 h = p->from.v4 ^ (p->to.v4 << 16 | p->to.v4 >> 16);

	if (hops <= 1)
		return 0;
	if (v6)
		h ^= p->from.v6[1] ^ p->from.v6[2] ^ p->from.v6[3] ^ p->to.v6[1] ^ p->to.v6[2] ^ (p->to.v6[3] << 16 | p->to.v6[3] >> 16);
	if (p->form == FORM_PLAIN)
		h ^= (__u32)p->from_port << 16 | p->to_port;
	h ^= h >> 16; /* the finalizer of MurmurHash3, Austin Appleby */
	h *= 0x85ebca6b;
	h ^= h >> 13;
	h *= 0xc2b2ae35;
	h ^= h >> 16;
	return h % hops;
}
