package nat

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Another program that insists on being first would have us insist too, without end.
const (
	displaceMost = 5           // times that our jump is put first again
	displaceSpan = time.Minute // within so much time
)

// order is what must be done to one family's chain.
type order struct {
	family  int
	puts    map[string]Entry // by name
	deletes []string
}

func (o *order) take(puts map[EntryKey]Entry, deletes []EntryKey) {
	for k, r := range puts {
		if k.Family == o.family {
			o.puts[k.Name] = r
		}
	}
	for _, k := range deletes {
		if k.Family == o.family {
			o.deletes = append(o.deletes, k.Name)
		}
	}
}

func (o *order) blame(failed map[EntryKey]error, err error) {
	for name := range o.puts {
		failed[EntryKey{name, o.family}] = err
	}
	for _, name := range o.deletes {
		failed[EntryKey{name, o.family}] = err
	}
}

func (c *Chain) obey(ctx context.Context, o order) error {
	if len(o.puts)+len(o.deletes) == 0 {
		return nil
	}
	t, err := c.tool(ctx, o.family)
	if errors.Is(err, exec.ErrNotFound) && len(o.puts) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	s, err := t.state(ctx, c.name, c.hook)
	if err != nil {
		return err
	}
	if err := c.fill(ctx, t, s, o); err != nil {
		return err
	}
	if len(o.puts) > 0 {
		err = c.lead(ctx, t, s)
	}
	if err == nil && s.stray != "" {
		err = c.sweep(ctx, t)
	}
	if err == nil && len(o.puts) == 0 {
		err = c.raze(ctx, t)
	}
	return err
}

// fill puts the rules that are missing into the chain, then takes out what does not belong there.
func (c *Chain) fill(ctx context.Context, t *tool, s state, o order) error {
	if s.there == missing && len(o.puts) > 0 {
		if err := t.do(ctx, "-N", c.name); err != nil {
			return explain(err)
		}
	}
	if s.shown == probed && s.there == present {
		return c.renew(ctx, t, o)
	}
	sound := make(map[string]bool)
	var old []int
	for i, l := range s.rules {
		name, r, ours := l.rule()
		want, put := o.puts[name]
		switch {
		case !ours, slices.Contains(o.deletes, name), sound[name], put && r != want:
			old = append(old, i+1)
		default:
			sound[name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(o.puts)) {
		if sound[name] {
			continue
		}
		if err := t.do(ctx, append([]string{"-A", c.name}, o.puts[name].named(name)...)...); err != nil {
			return missingMatch(err)
		}
	}
	// By their places, which in our own chain nobody else changes: some rules iptables can not even print.
	for _, place := range slices.Backward(old) {
		if err := t.undo(ctx, "-D", c.name, strconv.Itoa(place)); err != nil {
			return err
		}
	}
	return nil
}

// renew puts the rules in front of whatever is in a chain that can not be printed, then takes that out.
func (c *Chain) renew(ctx context.Context, t *tool, o order) error {
	for _, name := range slices.Backward(slices.Sorted(maps.Keys(o.puts))) {
		if err := t.do(ctx, append([]string{"-I", c.name}, o.puts[name].named(name)...)...); err != nil {
			return missingMatch(err)
		}
	}
	var err error
	for behind := strconv.Itoa(len(o.puts) + 1); err == nil; {
		err = t.do(ctx, "-D", c.name, behind)
	}
	if !gone(err) {
		return explain(err)
	}
	return nil
}

// missingMatch names the modules that the rules need where the kernel refuses one. It does not say which it lacks, but that
// there is no such file or that an argument is invalid.
func missingMatch(err error) error {
	text, told := err.Error(), explain(err)
	if strings.Contains(text, "No such file") || strings.Contains(text, "Invalid argument") || strings.Contains(text, "No chain/target/match") {
		return fmt.Errorf(`the kernel refuses the rule: modprobe -a xt_set xt_bpf xt_comment, or set accept = "any" under [tunnel]: %w`, told)
	}
	return told
}

// lead makes the rule that enters our chain the first of the hook, and the only one. The new one is there before the old
// ones go, and each is deleted by its words and not by its place, which others may change any time. Where the place can not
// be seen, any will do: putting it first in every pass would be a write in every pass.
func (c *Chain) lead(ctx context.Context, t *tool, s state) error {
	if s.sight == probed && len(s.hook) > 0 {
		return nil
	}
	if len(s.hook) > 0 && s.hook[0].jump(c.name) && c.enters(s, 0)+c.enters(s, 1) == 1 {
		return nil
	}
	forms := jumps(c.name)
	fresh, stale := 0, 1
	if c.enters(s, 0) > 0 {
		fresh, stale = 1, 0
	}
	if c.enters(s, 0)+c.enters(s, 1) > 0 {
		if err := c.patience(); err != nil {
			return err
		}
	}
	for range c.enters(s, fresh) {
		if err := t.undo(ctx, append([]string{"-D", c.hook}, forms[fresh]...)...); err != nil {
			return err
		}
	}
	if err := t.do(ctx, append([]string{"-I", c.hook}, forms[fresh]...)...); err != nil {
		return explain(err)
	}
	for range c.enters(s, stale) {
		if err := t.undo(ctx, append([]string{"-D", c.hook}, forms[stale]...)...); err != nil {
			return err
		}
	}
	return nil
}

// enters is how often the hook enters our chain by a form of the jump.
func (c *Chain) enters(s state, form int) (n int) {
	for _, l := range s.hook {
		if slices.Equal(l, jumps(c.name)[form]) {
			n++
		}
	}
	return n
}

// patience ends when our rule was put first again and again.
func (c *Chain) patience() error {
	now := time.Now()
	c.displaced = slices.DeleteFunc(c.displaced, func(at time.Time) bool { return now.Sub(at) > displaceSpan })
	if len(c.displaced) >= displaceMost {
		return fmt.Errorf("another program puts its rule before ours in %s again and again", c.hook)
	}
	c.displaced = append(c.displaced, now)
	return nil
}

// raze removes the chain when nothing is in it, and before it what leads there.
func (c *Chain) raze(ctx context.Context, t *tool) error {
	s, err := t.state(ctx, c.name, c.hook)
	if err != nil || s.there == missing || len(s.rules) > 0 {
		return err
	}
	return c.remove(ctx, t)
}

// remove deletes each form of the jump until there is none, since how many there are can not always be seen, and then the
// chain.
func (c *Chain) remove(ctx context.Context, t *tool) error {
	for _, words := range jumps(c.name) {
		var err error
		for err == nil {
			err = t.do(ctx, append([]string{"-D", c.hook}, words...)...)
		}
		if !gone(err) {
			return explain(err)
		}
	}
	if err := t.undo(ctx, "-F", c.name); err != nil {
		return err
	}
	return t.undo(ctx, "-X", c.name)
}

// sweep removes our chain from the back end that this host no longer uses.
func (c *Chain) sweep(ctx context.Context, t *tool) error {
	other := t.other()
	if other == nil {
		return nil
	}
	return c.remove(ctx, other)
}
