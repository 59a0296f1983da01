package fastpath

import "github.com/cilium/ebpf"

// LoadDatapath is the programs and maps as they were built.
func LoadDatapath() (*ebpf.CollectionSpec, error) { return loadDatapath() }
