package main

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/fairlead-net/fairlead/fastpath"
	"github.com/fairlead-net/fairlead/nettest"
	"github.com/fairlead-net/fairlead/reconcile"
)

// programPorts fills the map of ports from nothing, as a pass does, and returns how many milliseconds that took, for each of the numbers.
func programPorts(t nettest.T, k kept, repeats int) (took map[int][]float64, err error) {
	took = make(map[int][]float64)
	h := nettest.NewHost(t, "program")
	return took, h.Do(func() error {
		kernel, err := fastpath.Open(filepath.Join(k.pins, "program"), fastpath.Sizes{})
		if err != nil {
			return err
		}
		defer kernel.Close()
		if err := kernel.Begin(); err != nil {
			return err
		}
		ctx := context.Background()
		for range repeats {
			for _, count := range counts() {
				rows := make(map[fastpath.Port]fastpath.Mapping, count)
				keys := make([]fastpath.Port, 0, count)
				for i := range count {
					p := fastpath.Port{Address: netip.IPv4Unspecified(), Number: uint16(firstPort + i), Proto: 6}
					rows[p] = fastpath.Mapping{To: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 88, 2, 1}), port)}
					keys = append(keys, p)
				}
				begun := time.Now()
				failed := reconcile.Apply(ctx, kernel.Ports(), rows, nil)
				took[count] = append(took[count], float64(time.Since(begun))/float64(time.Millisecond))
				for p, err := range failed {
					return fmt.Errorf("program port %v: %w", p, err)
				}
				for p, err := range reconcile.Apply(ctx, kernel.Ports(), nil, keys) {
					return fmt.Errorf("take out port %v: %w", p, err)
				}
			}
		}
		return kernel.End(ctx)
	})
}
