package nat

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// The names of our pins. The number is raised with what they mean.
const (
	pinPorts   = "hold-ports-1"
	pinExcused = "hold-excused-1"
	pinBind4   = "hold-bind4-1"
	pinBind6   = "hold-bind6-1"
	pinSCTP    = "hold-sctp-1"
	pinSCTPx   = "hold-sctpx-1"

	bpffs      = "/sys/fs/bpf"
	mountTable = "/proc/thread-self/mountinfo"
	lockWait   = 5 * time.Second
	lockPause  = 2 * time.Millisecond
)

// errBusy is another daemon that has been at the pins for too long.
var errBusy = errors.New("another daemon is at work there")

// pins are what is pinned below a directory. Daemons of other network namespaces may share them.
type pins struct {
	dir     string
	root    string // the control group that everything is in
	group   uint64 // its id
	ports   *ebpf.Map
	excused *ebpf.Map
	links   map[string]link.Link
	inodes  map[string]uint64 // of the pins, to see that they are still those
	can     []abilities       // what this kernel lets the programs have; none before it was asked
}

func newPins(dir string) *pins {
	return &pins{dir: filepath.Clean(dir), links: make(map[string]link.Link), inodes: make(map[string]uint64)}
}

// pinnedAt tells whether ports are held by pins below dir.
func pinnedAt(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, pinPorts))
	return err == nil
}

// lock makes the directory and keeps other daemons from it until it is closed.
func (p *pins) lock(ctx context.Context) (*os.File, error) {
	if err := mountAbove(p.dir); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(lockWait); ; {
		if err := os.MkdirAll(p.dir, 0o700); err != nil {
			return nil, fmt.Errorf("make directory of pins: %w", err)
		}
		f, err := os.Open(p.dir)
		if err != nil {
			return nil, fmt.Errorf("open directory of pins: %w", err)
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil && isAt(f, p.dir) {
			return f, nil
		}
		f.Close()
		if err != nil && !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", p.dir, err)
		}
		switch {
		case ctx.Err() != nil:
			return nil, fmt.Errorf("lock %s: %w", p.dir, ctx.Err())
		case time.Now().After(deadline):
			return nil, fmt.Errorf("lock %s: %w", p.dir, errBusy)
		}
		time.Sleep(lockPause)
	}
}

// isAt tells whether the file is still the one that has the name.
func isAt(f *os.File, path string) bool {
	held, err := f.Stat()
	if err != nil {
		return false
	}
	named, err := os.Stat(path)
	return err == nil && os.SameFile(held, named)
}

// mountAbove sees to it that the directory is in a file system that takes pins: it mounts the usual one if it is missing.
func mountAbove(dir string) error {
	within := func(parent string) bool { return dir == parent || strings.HasPrefix(dir, parent+"/") }
	if within(bpffs) && !takesPins(bpffs) {
		if err := unix.Mount("bpf", bpffs, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
			return fmt.Errorf("mount %s: %w", bpffs, err)
		}
	}
	there := dir
	for !exists(there) && there != filepath.Dir(there) {
		there = filepath.Dir(there)
	}
	if !takesPins(there) {
		return fmt.Errorf("%s is in no bpf file system", dir)
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func takesPins(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && uint32(st.Type) == unix.BPF_FS_MAGIC
}

// findRoot finds the root of the control groups of version 2, or what is seen of them from here.
func (p *pins) findRoot() error {
	table, err := os.ReadFile(mountTable)
	if err != nil {
		return fmt.Errorf("read the table of mounts: %w", err)
	}
	for line := range strings.Lines(string(table)) {
		mount, kind, _ := strings.Cut(line, " - ")
		fields := strings.Fields(mount)
		if len(fields) < 5 || fields[3] != "/" || !strings.HasPrefix(kind, "cgroup2 ") {
			continue
		}
		var st unix.Stat_t
		if err := unix.Stat(fields[4], &st); err != nil {
			return fmt.Errorf("look at the root of the control groups: %w", err)
		}
		p.root, p.group = fields[4], st.Ino // the inode is the id, kernfs_node in include/linux/kernfs.h
		return nil
	}
	return errors.New("no control groups of version 2 are mounted")
}

// isNarrow tells whether programs are outside what is seen as the root of the control groups: the real one has no type.
func (p *pins) isNarrow() bool { return exists(filepath.Join(p.root, "cgroup.type")) }

// adopt takes over what is pinned where it is what we would pin, and mends the rest. Guards are put into the place of
// others, or beside them, before those go. The directory is locked.
func (p *pins) adopt() (err error) {
	if p.ports, err = p.adoptMap(p.ports, pinPorts, &ebpf.MapSpec{
		Name: "fl_hold_ports", Type: ebpf.Hash, KeySize: 32, ValueSize: 4, MaxEntries: 1 << 17, Flags: unix.BPF_F_NO_PREALLOC,
	}); err != nil {
		return err
	}
	if p.excused, err = p.adoptMap(p.excused, pinExcused, &ebpf.MapSpec{
		Name: "fl_hold_excused", Type: ebpf.Hash, KeySize: 8, ValueSize: 4, MaxEntries: 1 << 14, Flags: unix.BPF_F_NO_PREALLOC,
	}); err != nil {
		return err
	}
	bind4, bind6, err := p.loadBind()
	if err != nil {
		return err
	}
	defer bind4.Close()
	defer bind6.Close()
	if err := p.adoptLink(pinBind4, bind4, ebpf.AttachCGroupInet4Bind); err != nil {
		return err
	}
	if err := p.adoptLink(pinBind6, bind6, ebpf.AttachCGroupInet6Bind); err != nil {
		return err
	}
	if exists(filepath.Join(p.dir, pinSCTP)) {
		if err := p.adoptSCTP(); err != nil {
			return err
		}
	}
	return p.remember()
}

// adoptMap is the map that is pinned, or the one that we have, or a new one.
func (p *pins) adoptMap(had *ebpf.Map, name string, spec *ebpf.MapSpec) (*ebpf.Map, error) {
	path := filepath.Join(p.dir, name)
	m, err := ebpf.LoadPinnedMap(path, nil)
	if err == nil && spec.Compatible(m) == nil {
		return m, errors.Join(closeMap(had))
	}
	if err == nil {
		m.Close()
	}
	os.Remove(path)
	if had == nil {
		if had, err = ebpf.NewMap(spec); err != nil {
			return nil, fmt.Errorf("make map: %w", err)
		}
	}
	fresh, err := had.Clone() // one that was pinned elsewhere before would be moved
	if err == nil {
		err = errors.Join(closeMap(had), fresh.Pin(path))
	}
	if err != nil {
		return fresh, fmt.Errorf("pin map: %w", err)
	}
	return fresh, nil
}

func closeMap(m *ebpf.Map) error {
	if m == nil {
		return nil
	}
	return m.Close()
}

// adoptLink is the same with what guards: a link of the right kind gets the program in its place if it has another.
func (p *pins) adoptLink(name string, program *ebpf.Program, attach ebpf.AttachType) error {
	path := filepath.Join(p.dir, name)
	had := p.links[name]
	l, err := link.LoadPinnedLink(path, nil)
	if err == nil && !p.isAttached(l, attach) {
		err = errors.Join(errors.New("guards nothing"), l.Close())
	}
	if err == nil && !runs(l, program) {
		err = l.Update(program)
	}
	if err != nil {
		if l, err = link.AttachCgroup(link.CgroupOptions{Path: p.root, Attach: attach, Program: program}); err != nil {
			return fmt.Errorf("attach program: %w", err)
		}
		os.Remove(path)
		if err := l.Pin(path); err != nil {
			return fmt.Errorf("pin link: %w", errors.Join(err, l.Close()))
		}
	}
	p.links[name] = l
	if had != nil {
		return had.Close()
	}
	return nil
}

// isAttached tells whether the link is at work at the root. The kernel takes the group from one that is detached.
func (p *pins) isAttached(l link.Link, attach ebpf.AttachType) bool {
	if l == nil {
		return false
	}
	info, err := l.Info()
	if err != nil || info.Cgroup() == nil {
		return false
	}
	return info.Cgroup().CgroupId == p.group && ebpf.AttachType(info.Cgroup().AttachType) == attach
}

// runs tells whether the link has that program, with those maps.
func runs(l link.Link, want *ebpf.Program) bool {
	info, err := l.Info()
	if err != nil {
		return false
	}
	have, err := ebpf.NewProgramFromID(info.Program)
	if err != nil {
		return false
	}
	defer have.Close()
	a, err := have.Info()
	if err != nil {
		return false
	}
	b, err := want.Info()
	if err != nil {
		return false
	}
	mapsA, _ := a.MapIDs()
	mapsB, _ := b.MapIDs()
	return a.Tag == b.Tag && slices.Equal(mapsA, mapsB)
}

// remember notes which pins are ours.
func (p *pins) remember() error {
	names := append(slices.Collect(maps.Keys(p.links)), pinPorts, pinExcused)
	for _, name := range names {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(p.dir, name), &st); err != nil {
			return fmt.Errorf("look at pin %s: %w", name, err)
		}
		p.inodes[name] = st.Ino
	}
	return nil
}

// sound tells whether everything is pinned and attached as it was left.
func (p *pins) sound() bool {
	if p.ports == nil {
		return false
	}
	for name, inode := range p.inodes {
		var st unix.Stat_t
		if unix.Stat(filepath.Join(p.dir, name), &st) != nil || st.Ino != inode {
			return false
		}
	}
	return p.isAttached(p.links[pinBind4], ebpf.AttachCGroupInet4Bind) &&
		p.isAttached(p.links[pinBind6], ebpf.AttachCGroupInet6Bind)
}

// remove takes everything out of the kernel. The directory is locked.
func (p *pins) remove() error {
	var errs []error
	for _, name := range []string{pinBind4, pinBind6, pinSCTP, pinSCTPx, pinExcused, pinPorts} {
		if err := os.Remove(filepath.Join(p.dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove pin: %w", err))
		}
	}
	os.Remove(p.dir) // others may have pins there
	return errors.Join(append(errs, p.close())...)
}

// close lets go of what we have open of it.
func (p *pins) close() error {
	errs := []error{closeMap(p.ports), closeMap(p.excused)}
	for _, l := range p.links {
		errs = append(errs, l.Close())
	}
	p.ports, p.excused = nil, nil
	clear(p.links)
	clear(p.inodes)
	return errors.Join(errs...)
}
