/* What the programs and the daemon share: the layout of every map. layout.go says the same in Go, and a test compares. */
#pragma once

#include <stdbool.h>

#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#define MAX_HOPS 8

/* An address of either family. One of IPv4 is in the first four bytes, and the others are zero. */
union address {
	__be32 v4;
	__be32 v6[4];
};

/* An endpoint's address on this host. */
struct endpoint {
	__u32 link;  /* the host side of its pair */
	__u32 home;  /* the namespace that the inside is in, 0 when that is not known */
	__u32 realm; /* 0, or a network that is kept apart from others */
	__u32 slot;  /* of its counts */
	__u16 mtu;   /* of its link, in bytes */
	__u8 mac[6]; /* of the inside */
};

/* The host side of an endpoint's pair. */
struct side {
	__u32 home;
	__u32 slot;
	__u8 mac[6];
	__u8 pad[2];
};

enum encap {
	ENCAP_DIRECT = 1,
	ENCAP_IPIP = 2,
	ENCAP_VXLAN = 3,
};

/* One way to a prefix. */
struct hop {
	__u32 link;          /* that leads there */
	__u16 mtu;           /* of a packet from a container, in bytes */
	__u8 encap;          /* enum encap */
	__u8 family;         /* of next, local and end: 4 or 6 */
	union address next;  /* on the link: the node itself, or a router */
	union address local; /* source of the outer header */
	union address end;   /* destination of the outer header */
	__u8 mac[6];         /* destination inside of VXLAN */
	__u8 pad[2];
};

struct route {
	__u32 slot; /* of its counts */
	__u32 hops; /* that are used of the following */
	struct hop hop[MAX_HOPS];
};

struct prefix4 {
	__u32 bits;
	__be32 address;
};

struct prefix6 {
	__u32 bits;
	__be32 address[4];
};

/* What the node is. */
struct settings {
	__u32 flags; /* enum setting */
	__u32 vni;
	__be32 local4;    /* destination of outer headers that are for this node */
	__be32 local6[4];
	__u8 mac4[6];     /* destination inside of VXLAN, by the family of the outer header */
	__u8 mac6[6];
	__be16 port;      /* of VXLAN */
	__u8 pad[2];
	__u32 device;     /* with mac4, by which comes in what was unwrapped for want of a device; 0: by the link that it came by */
};

enum setting {
	TAKES_IPIP = 1,
	TAKES_VXLAN = 2,
	TAKES_ALL = 4,    /* of any sender, not of the known nodes alone */
	LACKS_IPIP = 8,   /* the kernel has no device for it: what is for the host itself is unwrapped here too */
	CROSSES = 16,     /* IPv6 may be wrapped into IPv4 and back: BPF_F_ADJ_ROOM_DECAP_L3_IPV6, Linux 6.3 */
	MAPS_PORTS = 32,  /* connections to ports of the host go to endpoints by the table of ports */
	HAIRPINS = 64,    /* an endpoint reaches itself by such a port */
};

/* A flow between an address of this host's endpoints and another. One of fragments or of ICMP errors has neither ports nor
 * protocol, and stands for all of the pair. */
struct flow4 {
	__be32 near, far;
	__be16 near_port, far_port;
	__u8 protocol;
	__u8 pad[3];
};

struct flow6 {
	__be32 near[4], far[4];
	__be16 near_port, far_port;
	__u8 protocol;
	__u8 pad[3];
};

/* An address of this host. */
struct host {
	union address address;
	__u32 family; /* 4 or 6 */
};

/* A port of this host. */
struct port {
	union address address; /* zero: every address of this host */
	__be16 port;
	__u8 protocol;
	__u8 family;
};

/* What it leads to: a port of an endpoint's. */
struct target {
	union address to;
	__be16 port;
	__u8 pad[2];
};

/* A connection by a port of the host, as one side of the translation sees it: outside, where whoever asks has reached the
 * host, and inside, where the endpoint is. */
struct tuple {
	union address near, far; /* this host or the endpoint, and the other */
	__be16 near_port, far_port;
	__u8 protocol;
	__u8 family;
	__u8 inside;
	__u8 pad;
};

/* Each connection has an entry for either side, which counts what comes from there. */
struct connection {
	struct tuple other; /* the other side */
	__u32 link;         /* by which the first packet came */
	__u32 state;        /* enum state */
	__u64 seen;         /* when the last packet came from this side, in nanoseconds since the boot */
};

enum state {
	SEEN_ANY = 1,
	SEEN_FIN = 2,
	SEEN_RST = 4,
};

/* A datagram that comes in fragments. */
struct datagram {
	union address from, to;
	__be32 id;
	__u32 family; /* 4 or 6 */
};

struct traffic {
	__u64 packets;
	__u64 bytes;
};

/* The counts of one endpoint or route. */
struct counts {
	struct traffic out;    /* from the endpoint, or to the prefix, by the fast path */
	struct traffic in;     /* the other way */
	struct traffic kernel; /* from the endpoint, left to the kernel */
	struct traffic drops;  /* from the endpoint */
};

/* Why a packet went the way it went. The words for people are in reason.go, in this order. */
enum reason {
	FAST_LOCAL,
	FAST_DIRECT,
	FAST_IPIP,
	FAST_VXLAN,
	FAST_FROM_DIRECT,
	FAST_FROM_IPIP,
	FAST_FROM_VXLAN,
	FAST_MAPPED,     /* to an endpoint, by a port of the host */
	FAST_ANSWERED,   /* from one, as that port */
	KERNEL_ROUTE,    /* no endpoint and no route is its destination or, on its way in, its source */
	KERNEL_FLOW,     /* the kernel has translated its flow */
	KERNEL_REALM,    /* its network is kept apart */
	KERNEL_SIZE,     /* too large for the way */
	KERNEL_TTL,
	KERNEL_FORM,     /* IP options, extension headers, or too short */
	KERNEL_PROTOCOL, /* neither IPv4 nor IPv6, or talk of the link itself */
	KERNEL_TUNNEL,   /* an outer header that this node does not take, or whose content is not for an endpoint */
	KERNEL_FAILED,   /* a helper refused */
	KERNEL_FULL,     /* there is no room for one more connection by a port */
	DROP_MAC,
	DROP_SOURCE,
	DROP_ARP,
	REASONS,
};
