package tunnel

import (
	"context"
	"errors"
	"net/netip"
)

var errStub = errors.New("unwritten")

type Kernel struct{}
type table[K, V comparable] struct{ k *Kernel }

func (t table[K, V]) List(ctx context.Context) (map[K]V, error) { return nil, errStub }
func (t table[K, V]) Put(ctx context.Context, k K, v V) error   { return errStub }
func (t table[K, V]) Delete(ctx context.Context, k K) error     { return errStub }

type Devices struct{ table[string, Device] }
type Neighbours struct{ table[NeighKey, MAC] }
type FDB struct{ table[FDBKey, netip.Addr] }
type Routes struct{ table[RouteKey, Route] }
type Rules struct{ table[netip.Prefix, Rule] }
type Sysctls struct{ table[string, string] }

func Open() (*Kernel, error)                                         { return &Kernel{}, nil }
func (k *Kernel) Close() error                                       { return nil }
func (k *Kernel) Devices() *Devices                                  { return &Devices{} }
func (k *Kernel) Neighbours() *Neighbours                            { return &Neighbours{} }
func (k *Kernel) FDB() *FDB                                          { return &FDB{} }
func (k *Kernel) Routes() *Routes                                    { return &Routes{} }
func (k *Kernel) Rules() *Rules                                      { return &Rules{} }
func (k *Kernel) Sysctls(want map[string]string) *Sysctls            { return &Sysctls{} }
func (k *Kernel) ReadSysctl(path string) (string, error)             { return "", errStub }
func (k *Kernel) WriteSysctl(path, value string) error               { return errStub }
func (k *Kernel) Watch(ctx context.Context) (<-chan struct{}, error) { return nil, errStub }
func (k *Kernel) Hops(ctx context.Context, next []netip.Addr) (map[netip.Addr]Hop, error) {
	return nil, errStub
}
func (k *Kernel) Underlay(ctx context.Context, address netip.Addr) (Underlay, error) {
	return Underlay{}, errStub
}
