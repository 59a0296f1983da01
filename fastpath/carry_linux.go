package fastpath

import (
	"errors"
	"fmt"
	"reflect"

	"github.com/cilium/ebpf"
)

// carry copies the entries of a map into a fresh one that follows it, as far as that can have them.
func carry(old, fresh *ebpf.Map, want *ebpf.MapSpec, why string) Moved {
	m := Moved{Map: want.Name, Why: why}
	had, err := used(old)
	if err == nil && fits(old, fresh) && isLaidOut(old, want) {
		// One that can not have all keeps what it has. What is wanted beyond that is put anew, or learned anew.
		_ = pour(old, fresh)
		m.Kept, err = used(fresh)
	}
	if err != nil {
		m.Why += "; " + err.Error()
	}
	m.Lost = max(0, had-m.Kept)
	m.Kept = min(m.Kept, had)
	return m
}

// fits tells whether entries of one map can be in the other.
func fits(a, b *ebpf.Map) bool {
	return a.Type() == b.Type() && a.KeySize() == b.KeySize() && a.ValueSize() == b.ValueSize()
}

// pour copies the entries of a map into another until that is full.
func pour(from, to *ebpf.Map) error {
	return eachPart(from, func(keys, values any) error {
		if _, err := to.BatchUpdate(keys, values, nil); err != nil {
			return fmt.Errorf("copy entries of %v: %w", from, err)
		}
		return nil
	})
}

// isArray tells whether a map always has all of its entries.
func isArray(m *ebpf.Map) bool { return m.Type() == ebpf.Array || m.Type() == ebpf.PerCPUArray }

// used is how many entries a map has. An array has all, a ring buffer none that outlive it.
func used(m *ebpf.Map) (n int, err error) {
	if m.Type() == ebpf.RingBuf {
		return 0, nil
	}
	if isArray(m) {
		return int(m.MaxEntries()), nil
	}
	err = eachPart(m, func(keys, _ any) error {
		n += reflect.ValueOf(keys).Len()
		return nil
	})
	return n, err
}

// eachPart reads a map of which only the sizes are known, and gives slices of keys and of values to fn. Values of a map
// that has one for each processor are as many more.
func eachPart(m *ebpf.Map, fn func(keys, values any) error) error {
	const many = 4096
	each := 1
	if m.Type() == ebpf.PerCPUArray {
		n, err := ebpf.PossibleCPU()
		if err != nil {
			return fmt.Errorf("count processors: %w", err)
		}
		each = n
	}
	keys, values := rooms(many, m.KeySize()), rooms(many*each, m.ValueSize())
	cursor := new(ebpf.MapBatchCursor)
	for total := 0; total <= fullCycle*max(int(m.MaxEntries()), many); {
		n, err := m.BatchLookup(cursor, keys.Interface(), values.Interface(), nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("read map %v: %w", m, err)
		}
		if n > 0 {
			if err := fn(keys.Slice(0, n).Interface(), values.Slice(0, n*each).Interface()); err != nil {
				return err
			}
		}
		if err != nil {
			return nil
		}
		total += n
	}
	return fmt.Errorf("read map %v: others change it all the time", m)
}

// rooms is a slice of so many arrays of bytes.
func rooms(n int, size uint32) reflect.Value {
	return reflect.MakeSlice(reflect.SliceOf(reflect.ArrayOf(int(size), reflect.TypeFor[byte]())), n, n)
}
