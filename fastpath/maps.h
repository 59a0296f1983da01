/* The maps. Their sizes are set when they are made. */
#pragma once

#include "layout.h"

#define TABLE(name, kind, key_type, value_type, entries, extra) \
	struct { \
		__uint(type, kind); \
		__uint(max_entries, entries); \
		__uint(map_flags, extra); \
		__type(key, key_type); \
		__type(value, value_type); \
	} name SEC(".maps")

struct key6 {
	__be32 a[4];
};

TABLE(fl_endpoints4, BPF_MAP_TYPE_HASH, __be32, struct endpoint, 4096, BPF_F_NO_PREALLOC);
TABLE(fl_endpoints6, BPF_MAP_TYPE_HASH, struct key6, struct endpoint, 4096, BPF_F_NO_PREALLOC);
TABLE(fl_sides, BPF_MAP_TYPE_HASH, __u32, struct side, 4096, BPF_F_NO_PREALLOC);
TABLE(fl_routes4, BPF_MAP_TYPE_LPM_TRIE, struct prefix4, struct route, 8192, BPF_F_NO_PREALLOC);
TABLE(fl_routes6, BPF_MAP_TYPE_LPM_TRIE, struct prefix6, struct route, 8192, BPF_F_NO_PREALLOC);
TABLE(fl_nodes4, BPF_MAP_TYPE_HASH, __be32, __u32, 8192, BPF_F_NO_PREALLOC);
TABLE(fl_nodes6, BPF_MAP_TYPE_HASH, struct key6, __u32, 8192, BPF_F_NO_PREALLOC);
TABLE(fl_settings, BPF_MAP_TYPE_ARRAY, __u32, struct settings, 1, 0);
TABLE(fl_counts, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct counts, 12288, 0);
TABLE(fl_reasons, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, __u64, REASONS, 0);
TABLE(fl_here, BPF_MAP_TYPE_HASH, struct host, __u32, 1024, BPF_F_NO_PREALLOC);
TABLE(fl_ports, BPF_MAP_TYPE_HASH, struct port, struct target, 65536, BPF_F_NO_PREALLOC);
/* Connections by ports of the host, each twice. The programs put them in, and the daemon takes out what is over. */
TABLE(fl_tuples, BPF_MAP_TYPE_HASH, struct tuple, struct connection, 262144, BPF_F_NO_PREALLOC);
/* Datagrams whose first fragment has been translated, with the other side of their connection. */
TABLE(fl_pieces, BPF_MAP_TYPE_LRU_HASH, struct datagram, struct tuple, 4096, 0);
/* Flows that the kernel has translated, with when it last carried them, in nanoseconds since the boot. */
TABLE(fl_flows4, BPF_MAP_TYPE_LRU_HASH, struct flow4, __u64, 65536, 0);
TABLE(fl_flows6, BPF_MAP_TYPE_LRU_HASH, struct flow6, __u64, 65536, 0);
