// Package fastpath carries containers' packets past the host's network stack by eBPF programs, with the kernel's own way
// intact beneath.
//
// A program at the host side of each endpoint and one at each uplink take those packets of which both ends are known, and
// leave all others to the kernel as they came. What they know is in maps, which a pass fills from the same values as the
// kernel's tables. The programs and maps are pinned: traffic goes on while no daemon runs.
package fastpath

//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -cc clang-14 -strip llvm-strip-14 -target bpfel -no-global-types datapath datapath.c -- -O2 -g -Wall -Werror -mcpu=v3
