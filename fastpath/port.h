/* Packets for ports of the host and the answers to them: whose they are, and what becomes of them. */
#pragma once

#include "connection.h"

/* Which datagram a fragment is of, and whether it has the ports, which are then read. False: it is no fragment. */
INLINE bool read_piece(struct __sk_buff *skb, struct packet *p, struct datagram *d)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__u32 at = p->at & 127; /* more than any wrapper has */
	__be16 *ports;

	d->from = p->from;
	d->to = p->to;
	if (p->v6) {
		struct ipv6hdr *ip = data + at;
		struct {
			__u8 next, zero;
			__be16 offset;
			__be32 id;
		} *f = (void *)(ip + 1);

		if ((void *)(f + 1) > end || ip->nexthdr != IPPROTO_FRAGMENT)
			return false;
		d->id = f->id;
		d->family = 6;
		p->protocol = f->next;
		p->piece = f->offset & bpf_htons(0xfff8) ? PIECE_LATER : PIECE_FIRST;
		ports = (void *)(f + 1);
	} else {
		struct iphdr *ip = data + at;

		if ((void *)(ip + 1) > end || !(ip->frag_off & bpf_htons(IPV4_FRAGMENT)))
			return false;
		d->id = ip->id;
		d->family = 4;
		p->piece = ip->frag_off & bpf_htons(0x1fff) ? PIECE_LATER : PIECE_FIRST;
		ports = (void *)(ip + 1);
	}
	if (p->piece == PIECE_LATER)
		return true;
	if ((void *)ports + 8 > end || !is_mapped_protocol(p->protocol))
		return false;
	p->from_port = ports[0];
	p->to_port = ports[1];
	return true;
}

/* The connection of a packet for a port of this host, which is begun if there is none. */
INLINE struct connection *outside_of(struct __sk_buff *skb, struct packet *p, struct scratch *s, __u32 realm)
{
	struct connection *c;

	tuple_of(p, false, &s->outside);
	c = connection_of(&s->outside);
	if (c) {
		renew(p, &s->outside, c);
		c = connection_of(&s->outside);
	}
	if (c || begin(skb, p, &s->outside, &s->inside, realm))
		return c;
	return connection_of(&s->outside);
}

/* The connection that an error is about. Its quote went to where the error comes from. */
static __noinline struct connection *quoted(struct __sk_buff *skb, struct packet *p, bool inside)
{
	struct scratch *s = scratch();
	struct quote *q;
	struct tuple *t;

	if (!s || !read_quote(skb, p, &s->quote))
		return NULL;
	q = &s->quote;
	t = &s->outside;
	__builtin_memset(t, 0, sizeof(*t));
	p->piece = PIECE_ERROR;
	t->near = inside ? q->to : q->from;
	t->far = inside ? q->from : q->to;
	t->near_port = inside ? q->to_port : q->from_port;
	t->far_port = inside ? q->from_port : q->to_port;
	t->protocol = q->protocol;
	t->family = p->v6 ? 6 : 4;
	t->inside = inside;
	return same_address(&t->near, inside ? &p->from : &p->to) ? connection_of(t) : NULL;
}

/* Whether the endpoint that a packet from outside is for can have it. All fragments of a datagram go one way. */
INLINE bool fits_in(struct packet *p, struct connection *c)
{
	struct endpoint *to = endpoint_of(&c->other.near, p->v6);

	return to && p->longest <= to->mtu;
}

INLINE struct tuple *other_of(struct __sk_buff *skb, struct packet *p, __u32 realm)
{
	bool inside = p->whence == FROM_INSIDE;
	struct scratch *s = scratch();
	struct connection *c;
	struct tuple *other;

	p->piece = PIECE_WHOLE;
	if (!s)
		return NULL;
	if (p->form == FORM_PLAIN) {
		if (!is_mapped_protocol(p->protocol))
			return NULL;
	} else if (p->form != FORM_PAIR) {
		return NULL;
	} else if (!read_piece(skb, p, &s->datagram)) {
		c = p->piece == PIECE_WHOLE ? quoted(skb, p, inside) : NULL;
		return c ? &c->other : NULL;
	}
	if (p->piece == PIECE_LATER) {
		other = bpf_map_lookup_elem(&fl_pieces, &s->datagram);
		return other && other->inside != inside ? other : NULL;
	}
	if (inside) {
		tuple_of(p, true, &s->inside);
		c = connection_of(&s->inside);
	} else {
		c = outside_of(skb, p, s, realm);
	}
	if (!c || (!inside && !fits_in(p, c)))
		return NULL;
	see(p, c);
	if (p->piece == PIECE_FIRST)
		bpf_map_update_elem(&fl_pieces, &s->datagram, &c->other, BPF_ANY);
	return &c->other;
}

/* Whether a packet belongs to a connection by a port of this host, and the other side of that. From inside comes an answer, from
 * outside a question, which may be the first, and may only come from a realm. The verifier looks at this once for all callers,
 * since it is not static. */
__attribute__((noinline)) int fl_other_side(struct __sk_buff *skb, struct packet *p, struct tuple *other, __u32 whence, __u32 realm)
{
	union address to; /* no kernel before 6.2 takes what was handed over for a key */
	struct tuple *found;

	if (!p || !other || p->ttl <= 1)
		return 0;
	to = p->to;
	if (whence != FROM_INSIDE && endpoint_of(&to, p->v6))
		return 0;
	p->whence = whence;
	found = other_of(skb, p, realm);
	if (!found)
		return 0;
	*other = *found;
	return 1;
}

/* Neither way would know what to do with the half. */
INLINE int spoilt(void)
{
	because(KERNEL_FAILED);
	return TC_ACT_SHOT;
}

/* Makes an error about one side of a connection one about the other. */
INLINE bool requote(struct __sk_buff *skb, struct packet *p, struct tuple *other)
{
	union address *from = &p->from, *to = &other->near;
	struct scratch *s = scratch();
	struct quote *as;

	if (!s || !read_quote(skb, p, &s->quote))
		return false;
	as = &s->as;
	if (other->inside) { /* from whoever is on the way */
		as->from = other->near;
		as->to = other->far;
		as->from_port = other->near_port;
		as->to_port = other->far_port;
	} else { /* from the endpoint */
		from = &other->near;
		to = &other->far;
		as->from = other->far;
		as->to = other->near;
		as->from_port = other->far_port;
		as->to_port = other->near_port;
	}
	if (!(p->v6 ? requote6(skb, p, from, to, &s->quote, as) : requote4(skb, p, from, to, &s->quote, as)))
		return false;
	p->from = *from;
	p->to = *to;
	return true;
}

/* Makes a packet of one side of a connection one of the other. 0: it is spoilt. Not static,
 * as above. */
__attribute__((noinline)) int fl_translate(struct __sk_buff *skb, struct packet *p, struct tuple *other)
{
	if (!p || !other)
		return 0;
	if (p->piece == PIECE_ERROR)
		return requote(skb, p, other);
	if (other->inside)
		return rewrite(skb, p, &other->far, &other->near, other->far_port, other->near_port);
	return rewrite(skb, p, &other->near, &other->far, other->near_port, other->far_port);
}

/* Gives a packet that asks, without a wrapper, to the endpoint that has the port. */
INLINE int hand_in(struct __sk_buff *skb, struct packet *p, struct tuple *in)
{
	struct endpoint *to = endpoint_of(&in->near, p->v6);
	__u32 length = skb->len, slot, link;

	if (!to)
		return spoilt();
	slot = to->slot;
	link = to->link;
	if (!fl_translate(skb, p, in) || !pass_on(skb, ETH_HLEN, p->v6))
		return spoilt();
	because(FAST_MAPPED);
	trace(skb, p, FAST_MAPPED);
	COUNT(slot, in, length);
	return bpf_redirect_peer(link, 0);
}
