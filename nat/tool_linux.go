package nat

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/coreos/go-iptables/iptables"

	"github.com/fairlead-net/fairlead/reconcile"
)

const (
	table    = "filter"
	lockTime = 2 // seconds to wait for the lock of the old back end; the loop tries again
	exitBusy = 4 // of iptables: the lock, or another resource, was not to be had
)

// backend is where iptables keeps its rules.
type backend string

const (
	nfTables backend = "nft"
	legacy   backend = "legacy"
)

// tool is iptables or ip6tables, in the back end that this host uses: the one that the plain name leads to, as it does for
// everything else on the host that does not speak to nf_tables itself.
type tool struct {
	*iptables.IPTables
	name   string // "iptables"
	real   string // the file that the name led to when it was looked up
	of     backend
	family int
}

// find looks a tool up. The error wraps exec.ErrNotFound when it is not installed.
func find(family int) (*tool, error) {
	t := &tool{name: "iptables", family: family}
	protocol := iptables.ProtocolIPv4
	if family == 6 {
		t.name, protocol = "ip6tables", iptables.ProtocolIPv6
	}
	path, err := exec.LookPath(t.name)
	if err != nil {
		return nil, fmt.Errorf(`%w: apt-get install iptables, or set accept = "any" under [tunnel]`, err)
	}
	if t.real, err = filepath.EvalSymlinks(path); err != nil {
		return nil, fmt.Errorf("find %s: %w", t.name, err)
	}
	version, err := exec.Command(path, "--version").Output()
	if err != nil {
		return nil, fmt.Errorf("ask %s for its version: %w", t.name, err)
	}
	if t.of = legacy; strings.Contains(string(version), "nf_tables") {
		t.of = nfTables
	}
	t.IPTables, err = iptables.New(iptables.IPFamily(protocol), iptables.Timeout(lockTime), iptables.Path(path))
	if err != nil {
		return nil, fmt.Errorf("set up %s: %w", t.name, err)
	}
	return t, nil
}

// current tells whether the plain name still leads to this tool: `update-alternatives` changes it.
func (t *tool) current() bool {
	path, err := exec.LookPath(t.name)
	if err != nil {
		return false
	}
	real, err := filepath.EvalSymlinks(path)
	return err == nil && real == t.real
}

// state reads the chain and the one that leads to it. What can not be read has nothing of ours: whoever puts a rule there
// learns why.
func (t *tool) state(chain, hook string) (s state, err error) {
	s.family = t.family
	printed, err := t.List(table, chain)
	switch {
	case err == nil:
		s.there, s.rules = present, lines(printed, chain)
	case exitOf(err) == exitBusy:
		return s, explain(err)
	}
	if s.there == present {
		if s.hook, s.sight, err = t.entries(chain, hook); err != nil {
			return s, explain(err)
		}
	}
	if other := t.other(); other != nil {
		if _, err := other.List(table, chain); err == nil {
			s.stray = other.name
		}
	}
	return s, nil
}

// entries reads the hook, or as much of it as leads to the chain. One foreign rule in it that can be said in nft's own words
// only is enough for iptables to print none of it, while it still finds, inserts and deletes.
func (t *tool) entries(chain, hook string) (entries []line, of sight, err error) {
	printed, err := t.List(table, hook)
	if err == nil {
		return lines(printed, hook), whole, nil
	}
	if exitOf(err) == exitBusy {
		return nil, whole, err
	}
	for _, jump := range jumps(chain) {
		there, err := t.Exists(table, hook, jump...)
		if err != nil {
			return nil, probed, err
		}
		if there {
			entries = append(entries, jump)
		}
	}
	return entries, probed, nil
}

// other is the tool of the other back end, when it is installed and can have rules. The old one is not asked where its
// table does not exist: asking would make it.
func (t *tool) other() *tool {
	o := &tool{name: t.name + "-" + string(nfTables), of: nfTables, family: t.family}
	if t.of == nfTables {
		o.name, o.of = t.name+"-"+string(legacy), legacy
		names, err := os.ReadFile(map[int]string{
			4: "/proc/thread-self/net/ip_tables_names", 6: "/proc/thread-self/net/ip6_tables_names",
		}[t.family])
		if err != nil || !strings.Contains("\n"+string(names), "\n"+table+"\n") {
			return nil
		}
	}
	path, err := exec.LookPath(o.name)
	if err != nil {
		return nil
	}
	protocol := iptables.ProtocolIPv4
	if t.family == 6 {
		protocol = iptables.ProtocolIPv6
	}
	o.IPTables, err = iptables.New(iptables.IPFamily(protocol), iptables.Timeout(lockTime), iptables.Path(path))
	if err != nil {
		return nil
	}
	return o
}

// exitOf is the exit status of iptables, 0 when it did not end by itself.
func exitOf(err error) int {
	var failed *iptables.Error
	if errors.As(err, &failed) {
		return failed.ExitStatus()
	}
	return 0
}

// gone is the error for what is not there any more.
func gone(err error) bool {
	var failed *iptables.Error
	return errors.As(err, &failed) && failed.IsNotExist()
}

// explain is an error of iptables without what it says about its usage, and with the cure where the cause is common.
func explain(err error) error {
	all := err.Error()
	text, _, _ := strings.Cut(all, "\n")
	switch {
	case strings.Contains(text, "Set ") && strings.Contains(text, "doesn't exist"):
		return fmt.Errorf("%w: %s", reconcile.ErrWaits, text)
	case strings.Contains(all, "open socket to ipset") || strings.Contains(all, "you must be root"):
		return fmt.Errorf("iptables needs CAP_NET_ADMIN and CAP_NET_RAW: %s", text)
	case strings.Contains(all, "xtables lock"):
		return fmt.Errorf("another program holds the lock of the packet filter: %s", text)
	}
	return errors.New(text)
}
