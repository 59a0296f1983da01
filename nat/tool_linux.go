package nat

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// backend is where iptables keeps its rules.
type backend string

const (
	nfTables backend = "nft"
	legacy   backend = "legacy"
)

// tool is iptables or ip6tables, in the back end that this host uses: the one that the plain name leads to, as it does for
// everything else on the host that does not speak to nf_tables itself. It works on one table.
type tool struct {
	table  string
	name   string // "iptables"
	path   string
	real   string // the file that the name led to when it was looked up
	of     backend
	family int

	k               *Kernel // whom nf_tables can be asked by; nil for who only looks for the tool
	restorer, saver string  // iptables-restore and iptables-save, "" until they are needed
}

// find looks a tool up, without asking which back end it has. The error wraps exec.ErrNotFound when it is not installed.
func find(family int, table string) (*tool, error) {
	t := &tool{table: table, name: map[int]string{4: "iptables", 6: "ip6tables"}[family], family: family}
	var err error
	if t.path, err = exec.LookPath(t.name); err != nil {
		return nil, fmt.Errorf("%w: apt-get install iptables", err)
	}
	if t.real, err = filepath.EvalSymlinks(t.path); err != nil {
		return nil, fmt.Errorf("find %s: %w", t.name, err)
	}
	return t, nil
}

// identify asks the tool for its back end.
func (t *tool) identify(ctx context.Context) error {
	version, err := t.run(ctx, "--version")
	if err != nil {
		return fmt.Errorf("ask %s for its version: %w", t.name, explain(err))
	}
	if t.of = legacy; strings.Contains(version[0], "nf_tables") {
		t.of = nfTables
	}
	return nil
}

// current tells whether the plain name still leads to this tool: `update-alternatives` changes it.
func (t *tool) current() bool {
	now, err := find(t.family, t.table)
	return err == nil && now.real == t.real
}

// state reads the chain and the one that leads to it. What can not be read has nothing of ours: whoever puts a rule there
// learns why.
func (t *tool) state(ctx context.Context, chain, hook string) (s state, err error) {
	s.family = t.family
	var printed []string
	lacks := t.lacks(chain)
	if !lacks {
		printed, err = t.list(ctx, chain)
	}
	switch {
	case lacks:
	case err == nil:
		s.there, s.rules = present, lines(printed, chain)
	case refused(err):
		s.shown = probed
		s.there, err = t.seek(ctx, chain, hook)
	}
	if err == nil && s.there == present {
		s.hook, s.sight, err = t.entries(ctx, chain, hook)
	}
	if err != nil {
		return s, explain(err)
	}
	if other := t.other(); other != nil {
		switch _, err := other.list(ctx, chain); {
		case err == nil:
			s.stray = other.name
		case ctx.Err() != nil:
			return s, err
		}
	}
	return s, nil
}

// seek finds out whether there is a chain that can not be printed: without it, nobody could ask for a jump there.
func (t *tool) seek(ctx context.Context, chain, hook string) (presence, error) {
	err := t.do(ctx, append([]string{"-C", hook}, jumps(chain)[0]...)...)
	switch {
	case err == nil || unmatched(err):
		return present, nil
	case refused(err):
		return missing, nil
	}
	return missing, err
}

// entries reads the hook, or as much of it as leads to the chain. One foreign rule in it that can be said in nft's own words
// only is enough for iptables to print none of it, while it still finds, inserts and deletes.
func (t *tool) entries(ctx context.Context, chain, hook string) (entries []line, of sight, err error) {
	printed, err := t.list(ctx, hook)
	if err == nil {
		return lines(printed, hook), whole, nil
	}
	if !refused(err) {
		return nil, whole, err
	}
	for _, jump := range jumps(chain) {
		switch err := t.do(ctx, append([]string{"-C", hook}, jump...)...); {
		case err == nil:
			entries = append(entries, jump)
		case !unmatched(err):
			return nil, probed, err
		}
	}
	return entries, probed, nil
}

// other is the tool of the other back end, when it is installed and can have rules. The old one is not asked where its
// table does not exist: asking would make it.
func (t *tool) other() *tool {
	o := &tool{table: t.table, name: t.name + "-" + string(nfTables), of: nfTables, family: t.family}
	if t.of == nfTables {
		o.name, o.of = t.name+"-"+string(legacy), legacy
	}
	if o.vacant() {
		return nil
	}
	var err error
	if o.path, err = exec.LookPath(o.name); err != nil {
		return nil
	}
	if o.real, err = filepath.EvalSymlinks(o.path); err != nil {
		return nil
	}
	return o
}

// lacks tells of nf_tables that it has no such chain, or no table at all for "".
func (t *tool) lacks(chain string) bool {
	return t.of == nfTables && t.k != nil && t.k.lacks(t.family, t.table, chain)
}

// vacant tells of the old back end that the namespace does not have the table: to ask for a rule there would make it.
func (t *tool) vacant() bool {
	if t.of == nfTables {
		return false
	}
	names, err := os.ReadFile(map[int]string{
		4: "/proc/thread-self/net/ip_tables_names", 6: "/proc/thread-self/net/ip6_tables_names",
	}[t.family])
	return err != nil || !strings.Contains("\n"+string(names), "\n"+t.table+"\n")
}
