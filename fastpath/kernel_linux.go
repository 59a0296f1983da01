package fastpath

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/reconcile"
)

// errIdle is the answer to a put while the programs are not loaded.
var errIdle = fmt.Errorf("the programs are not loaded: %w", reconcile.ErrWaits)

// Kernel is the fast path of one network namespace: the one of the thread that opened it.
type Kernel struct {
	home  *home
	dir   string // of our pins
	fault error  // there can be none

	changed chan struct{}
	end     context.CancelFunc
	watcher sync.WaitGroup
	written atomic.Uint64 // how often our own hands changed a table
	sizes   Sizes

	mu      sync.RWMutex
	work    *work     // under mu; nil while nothing is loaded
	refused error     // under mu: why the programs could not be loaded
	again   time.Time // under mu: when that is tried again
}

// loadAgain is how many times as long as it took to be refused nobody tries again: a kernel that looks through programs in vain
// can take seconds for it.
const loadAgain = 100

// work is what is loaded.
type work struct {
	tables   *tables
	programs map[string]*ebpf.Program // by their names less the prefix
	hooks    *hooks
	crosses  bool
}

// Open takes hold of the calling thread's network namespace. Nothing is loaded yet: a host that can not have a fast path can
// open it too. Pins go into a directory of the namespace below pinDir.
func Open(pinDir string, sizes Sizes) (*Kernel, error) {
	home, err := openHome()
	if err != nil {
		return nil, err
	}
	k := &Kernel{home: home, sizes: sizes, changed: make(chan struct{}, 1)}
	k.dir, k.fault = dirHere(pinDir)
	var ctx context.Context
	ctx, k.end = context.WithCancel(context.Background())
	k.watcher.Go(func() { k.watch(ctx) })
	return k, nil
}

// Close lets go of everything. Programs and maps stay, and carry on.
func (k *Kernel) Close() error {
	k.end()
	k.watcher.Wait()
	k.mu.Lock()
	defer k.mu.Unlock()
	return errors.Join(k.drop(), k.home.close())
}

// drop lets go of what is loaded. The lock is held.
func (k *Kernel) drop() error {
	if k.work == nil {
		return nil
	}
	errs := []error{k.work.tables.close()}
	for _, p := range k.work.programs {
		errs = append(errs, p.Close())
	}
	k.work = nil
	return errors.Join(errs...)
}

// Begin loads the programs and takes over the maps that are pinned, once. An error says why the host can not have the fast
// path; what was made until then is taken away again, unless an earlier daemon had made it.
func (k *Kernel) Begin() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.work != nil || k.fault != nil {
		return k.fault
	}
	if k.refused != nil && time.Now().Before(k.again) {
		return k.refused
	}
	begun := time.Now()
	k.refused = k.load()
	k.again = time.Now().Add(loadAgain * time.Since(begun))
	return k.refused
}

func (k *Kernel) load() error {
	fresh := !exists(k.dir)
	err := k.home.inside(k.begin)
	if err != nil && fresh {
		err = errors.Join(err, removePins(k.dir))
	}
	if errors.Is(err, unix.EPERM) { // the library adds its guesses
		return fmt.Errorf("eBPF is not allowed here: %w", unix.EPERM)
	}
	return err
}

func (k *Kernel) begin() (err error) {
	by, err := usable()
	if err != nil {
		return err
	}
	lock, err := lockDir(k.dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	spec, err := loadDatapath()
	if err != nil {
		return fmt.Errorf("read programs: %w", err)
	}
	w := &work{programs: make(map[string]*ebpf.Program)}
	defer func() {
		if err != nil && w.tables != nil {
			err = errors.Join(err, w.tables.close())
		}
	}()
	if w.tables, err = openTables(k.dir, spec, k.sizes); err != nil {
		return err
	}
	all, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: w.tables.all})
	if err != nil {
		return fmt.Errorf("load programs: %w", err)
	}
	defer all.Close()
	for name := range spec.Programs {
		w.programs[strings.TrimPrefix(name, namePrefix)] = all.DetachProgram(name)
	}
	if w.hooks, err = newHooks(k.dir, w.programs, k.home, by); err != nil {
		return err
	}
	w.crosses = canCross()
	k.work = w
	return nil
}

// End detaches the programs, removes the maps, and lets go of everything.
func (k *Kernel) End(ctx context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.work == nil && (k.fault != nil || !exists(k.dir)) {
		return nil
	}
	return errors.Join(k.home.inside(func() error { return k.detach(ctx) }), k.drop(), removePins(k.dir))
}

// detach takes away what is at the hooks, also what an earlier daemon has left there.
func (k *Kernel) detach(ctx context.Context) error {
	h := (*hooks)(nil)
	if k.work != nil {
		h = k.work.hooks
	} else {
		var err error
		if h, err = newHooks(k.dir, nil, k.home, byTCX); err != nil {
			return err
		}
	}
	all, err := h.List(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, hook := range slices.Collect(maps.Keys(all)) {
		errs = append(errs, h.Delete(ctx, hook))
	}
	return errors.Join(errs...)
}

// loaded is what is loaded, nil when nothing is. It stays so until done is called.
func (k *Kernel) loaded() (w *work, done func()) {
	k.mu.RLock()
	return k.work, k.mu.RUnlock
}

// removePins removes a directory with the pins in it.
func removePins(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove pins: %w", err)
	}
	return nil
}

// lazy is a table of the fast path. While nothing is loaded it is empty and can not be written.
type lazy[K, V comparable] struct {
	k  *Kernel
	of func(*work) reconcile.Target[K, V]
}

func (l lazy[K, V]) List(ctx context.Context) (map[K]V, error) {
	w, done := l.k.loaded()
	defer done()
	if w == nil {
		return nil, nil
	}
	return l.of(w).List(ctx)
}

func (l lazy[K, V]) Put(ctx context.Context, key K, v V) error {
	w, done := l.k.loaded()
	defer done()
	if w == nil {
		return errIdle
	}
	defer l.k.written.Add(1)
	return l.of(w).Put(ctx, key, v)
}

func (l lazy[K, V]) Delete(ctx context.Context, key K) error {
	w, done := l.k.loaded()
	defer done()
	if w == nil {
		return nil
	}
	defer l.k.written.Add(1)
	return l.of(w).Delete(ctx, key)
}

// Apply implements reconcile.Bulk, also for a table that takes its rows one by one.
func (l lazy[K, V]) Apply(ctx context.Context, puts map[K]V, deletes []K) map[K]error {
	w, done := l.k.loaded()
	defer done()
	if w != nil {
		defer l.k.written.Add(1)
		return reconcile.Apply(ctx, l.of(w), puts, deletes)
	}
	failed := make(map[K]error)
	for key := range puts {
		failed[key] = errIdle
	}
	return failed
}

// Endpoints is the table of the addresses of this host's endpoints.
func (k *Kernel) Endpoints() reconcile.Target[netip.Addr, Endpoint] {
	return lazy[netip.Addr, Endpoint]{k, func(w *work) reconcile.Target[netip.Addr, Endpoint] { return w.tables.Endpoints() }}
}

// Sides is the table of the host sides of endpoints' pairs.
func (k *Kernel) Sides() reconcile.Target[string, Side] {
	return lazy[string, Side]{k, func(w *work) reconcile.Target[string, Side] { return w.tables.Sides() }}
}

// Routes is the table of the prefixes that are reached by the fast path.
func (k *Kernel) Routes() reconcile.Target[netip.Prefix, Route] {
	return lazy[netip.Prefix, Route]{k, func(w *work) reconcile.Target[netip.Prefix, Route] { return w.tables.Routes() }}
}

// Nodes is the table of the hosts that may send through tunnels.
func (k *Kernel) Nodes() reconcile.Target[netip.Addr, Node] {
	return lazy[netip.Addr, Node]{k, func(w *work) reconcile.Target[netip.Addr, Node] { return w.tables.Nodes() }}
}

// Ports is the table of this host's ports.
func (k *Kernel) Ports() reconcile.Target[Port, Mapping] {
	return lazy[Port, Mapping]{k, func(w *work) reconcile.Target[Port, Mapping] { return w.tables.Ports() }}
}

// Own is the table of this host's addresses.
func (k *Kernel) Own() reconcile.Target[netip.Addr, Own] {
	return lazy[netip.Addr, Own]{k, func(w *work) reconcile.Target[netip.Addr, Own] { return w.tables.Own() }}
}

// Settings is the table with one row, SettingsKey.
func (k *Kernel) Settings() reconcile.Target[string, Settings] {
	return lazy[string, Settings]{k, func(w *work) reconcile.Target[string, Settings] { return w.tables.Settings() }}
}

// Hooks is the table of the places where the programs stand.
func (k *Kernel) Hooks() reconcile.Target[Hook, Job] {
	return lazy[Hook, Job]{k, func(w *work) reconcile.Target[Hook, Job] { return w.hooks }}
}

// Idle tells whether nothing of the fast path is on this host.
func (k *Kernel) Idle() bool {
	w, done := k.loaded()
	defer done()
	return w == nil && (k.fault != nil || !exists(k.dir))
}

// Attachment is how the programs are attached: "tcx" or "clsact"; "" while nothing is loaded.
func (k *Kernel) Attachment() string {
	w, done := k.loaded()
	defer done()
	if w == nil {
		return ""
	}
	return w.hooks.mode()
}

// Pave makes a new link ready for programs to be attached to it without a loss. Nothing is done while nothing is loaded.
func (k *Kernel) Pave(link string) error {
	w, done := k.loaded()
	defer done()
	if w == nil {
		return nil
	}
	return w.hooks.pave(link)
}

// Crosses tells whether this kernel lets a packet of one family be taken out of the other's (Linux 6.3). Nothing can while
// nothing is loaded.
func (k *Kernel) Crosses() bool {
	w, done := k.loaded()
	defer done()
	return w != nil && w.crosses
}

// canCross looks for the flag's name among those in the kernel's own description of itself. Without one nobody knows, and
// the kernel's way is taken. Decoding all types to find one would take longer than loading the programs.
func canCross() bool {
	description, err := os.ReadFile("/sys/kernel/btf/vmlinux")
	return err == nil && bytes.Contains(description, []byte("\x00BPF_F_ADJ_ROOM_DECAP_L3_IPV6\x00"))
}

// Counts is what the programs have counted; nothing while nothing is loaded.
func (k *Kernel) Counts(ctx context.Context) (Counts, error) {
	w, done := k.loaded()
	defer done()
	if w == nil {
		return Counts{}, nil
	}
	return w.tables.Counts(ctx)
}

// Settle says that every hook has the programs of now: what older ones have noted meanwhile is taken over, and their maps go.
func (k *Kernel) Settle() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.work == nil {
		return nil
	}
	return k.work.tables.catchUp()
}

// Memory is what the kernel accounts for the maps, in bytes; 0 while nothing is loaded.
func (k *Kernel) Memory() (uint64, error) {
	w, done := k.loaded()
	defer done()
	if w == nil {
		return 0, nil
	}
	return w.tables.Memory()
}
