/* Connections to ports of the host, which lead to ports of endpoints. Whoever asks is known by the table of connections from
 * the first packet on; a connection that the kernel has begun is not there, and stays with the kernel. */
#pragma once

#include "quote.h"
#include "guard.h"

#define TRIES 16 /* for a port that tells one connection from another inside */

#define TCP_FIN 1
#define TCP_SYN 2
#define TCP_RST 4
#define TCP_ACK 16

INLINE bool maps_ports(void)
{
	struct settings *s = settings_here();

	return s && s->flags & MAPS_PORTS;
}

INLINE bool asks(struct packet *p)
{
	return (p->flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN)) == TCP_SYN;
}

/* What the packet's connection is called on the side that it comes from. */
INLINE void tuple_of(struct packet *p, bool inside, struct tuple *t)
{
	__builtin_memset(t, 0, sizeof(*t));
	t->near = inside ? p->from : p->to;
	t->far = inside ? p->to : p->from;
	t->near_port = inside ? p->from_port : p->to_port;
	t->far_port = inside ? p->to_port : p->from_port;
	t->protocol = p->protocol;
	t->family = p->v6 ? 6 : 4;
	t->inside = inside;
}

INLINE struct connection *connection_of(struct tuple *t) { return bpf_map_lookup_elem(&fl_tuples, t); }

INLINE bool same_tuple(struct tuple *a, struct tuple *b)
{
	return same_address(&a->near, &b->near) && same_address(&a->far, &b->far) && a->near_port == b->near_port &&
	       a->far_port == b->far_port && a->protocol == b->protocol && a->family == b->family && a->inside == b->inside;
}

INLINE bool is_here(union address *a, __u32 family)
{
	struct host h = { .address = *a, .family = family };

	return bpf_map_lookup_elem(&fl_here, &h);
}

/* Whether an address can be that of somebody on another host. */
INLINE bool is_elsewhere(struct tuple *t)
{
	__u32 first = bpf_ntohl(t->far.v6[0]);

	if (is_here(&t->far, t->family) || endpoint_of(&t->far, t->family == 6))
		return false;
	if (t->family == 4) /* RFC 1122 section 3.2.1.3 */
		return first >> 24 && first >> 24 != 127 && first >> 24 < 224;
	return first >> 24 != 0xff && first >> 22 != 0xfe80 >> 6 && (first || t->far.v6[1] || t->far.v6[2]); /* RFC 4291 section 2.4 */
}

/* Where a port of this host leads. That of one address comes before that of all. */
static __noinline struct target *target_of(struct tuple *outside)
{
	struct port key = { .address = outside->near, .port = outside->near_port, .protocol = outside->protocol, .family = outside->family };
	struct target *to;

	if (!is_here(&outside->near, outside->family))
		return NULL;
	to = bpf_map_lookup_elem(&fl_ports, &key);
	if (to)
		return to;
	__builtin_memset(&key.address, 0, sizeof(key.address));
	return bpf_map_lookup_elem(&fl_ports, &key);
}

/* Whether the kernel has translated the connection that would be begun. */
static __noinline bool was_kernels(struct tuple *inside)
{
	if (inside->family == 6) {
		struct flow6 f = { .near_port = inside->near_port, .far_port = inside->far_port, .protocol = inside->protocol };

		__builtin_memcpy(f.near, &inside->near, 16);
		__builtin_memcpy(f.far, &inside->far, 16);
		return bpf_map_lookup_elem(&fl_flows6, &f);
	}
	struct flow4 f = {
		.near = inside->near.v4, .far = inside->far.v4,
		.near_port = inside->near_port, .far_port = inside->far_port, .protocol = inside->protocol,
	};

	return bpf_map_lookup_elem(&fl_flows4, &f);
}

/* Whoever is the host itself inside: an endpoint that asks for a port of its own would be answered by itself. */
INLINE bool as_host(struct tuple *inside)
{
	struct settings *s = settings_here();

	if (!s || !(s->flags & HAIRPINS))
		return false;
	if (inside->family == 6)
		__builtin_memcpy(&inside->far, s->local6, 16);
	else
		inside->far.v4 = s->local4;
	return inside->far.v6[0] || inside->far.v6[1] || inside->far.v6[2] || inside->far.v6[3];
}

/* Puts both sides of a connection in. The inside tells connections apart by the other's port, which becomes another one where
 * two have the same. */
static __noinline int enter(struct __sk_buff *skb, struct tuple *outside, struct tuple *inside)
{
	struct scratch *s = scratch();
	struct connection *held, *c;
	long err = -1;

	if (!s)
		return -1;
	c = &s->connection;
	c->link = skb->ifindex;
	c->state = 0;
	c->seen = bpf_ktime_get_ns();
	c->other = *outside;
	for (int i = 0; i < TRIES; i++) {
		err = bpf_map_update_elem(&fl_tuples, inside, c, BPF_NOEXIST);
		if (err != -17) /* EEXIST */
			break;
		held = connection_of(inside);
		if (held && same_tuple(&held->other, outside)) {
			err = 0; /* another processor has been here, or a daemon that was killed */
			break;
		}
		inside->far_port = bpf_htons(1024 + bpf_get_prandom_u32() % 64512);
	}
	if (err)
		return -1;
	c->other = *inside;
	if (!bpf_map_update_elem(&fl_tuples, outside, c, BPF_ANY))
		return 0;
	bpf_map_delete_elem(&fl_tuples, inside);
	return -1;
}

/* Begins the connection of a packet that comes from outside. Not 0: it is the kernel's. */
static __noinline int begin(struct __sk_buff *skb, struct packet *p, struct tuple *outside, struct tuple *inside, __u32 realm)
{
	struct target *to = target_of(outside);
	struct endpoint *e;

	if ((p->whence == FROM_WIRE && !is_elsewhere(outside)) || !to || (p->protocol == IPPROTO_TCP && !asks(p)))
		return -1;
	*inside = *outside;
	inside->near = to->to;
	inside->near_port = to->port;
	inside->inside = 1;
	e = endpoint_of(&inside->near, p->v6);
	if (!e || e->realm != realm)
		return -1;
	if (same_address(&inside->near, &inside->far) && !as_host(inside))
		return -1;
	if (p->protocol == IPPROTO_UDP && was_kernels(inside)) /* what asks by TCP begins anew */
		return -1;
	if (!enter(skb, outside, inside))
		return 0;
	because(KERNEL_FULL);
	return -1;
}

/* A port asks anew by a connection that is over: what was there goes. */
INLINE void renew(struct packet *p, struct tuple *t, struct connection *c)
{
	struct connection *back;
	struct tuple other;
	__u32 state;

	if (p->protocol != IPPROTO_TCP || !asks(p))
		return;
	back = connection_of(&c->other);
	state = back ? back->state : SEEN_RST;
	if (!((c->state | state) & SEEN_RST) && !(c->state & state & SEEN_FIN))
		return;
	other = c->other;
	bpf_map_delete_elem(&fl_tuples, t);
	bpf_map_delete_elem(&fl_tuples, &other);
}

INLINE void see(struct packet *p, struct connection *c)
{
	__u32 state = c->state | SEEN_ANY;

	if (p->protocol == IPPROTO_TCP) {
		if (p->flags & TCP_FIN)
			state |= SEEN_FIN;
		if (p->flags & TCP_RST)
			state |= SEEN_RST;
	}
	if (c->state != state)
		c->state = state;
	c->seen = bpf_ktime_get_ns();
}
