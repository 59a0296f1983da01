package nat

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
)

const writeTries = 3 // of one change, when others change the same at the same time

// errRefused is a kernel that lacks something that a rule needs.
var errRefused = errors.New("the kernel refuses the rules")

// errMoved is a change of rows that are all in another back end.
var errMoved = errors.New("iptables leads to another back end than before")

// errUnsteady is what is there when it is not what was written.
var errUnsteady = errors.New("what is there is not what was written: another program changes the same rules")

// bring changes one family's rows, and reads what came of it where that is not sure.
func (c *keeper[K, V]) bring(ctx context.Context, family int, puts map[K]V, deletes []K) error {
	before := c.tools[family]
	t, err := c.tool(ctx, family)
	if err == nil && before != nil && before != t {
		return errMoved
	}
	if errors.Is(err, exec.ErrNotFound) && len(c.of(family, puts, nil)) == 0 {
		return nil
	}
	if err == nil && c.seen == nil {
		err = c.survey(ctx)
	}
	if err != nil {
		return err
	}
	s, told := c.seen[family], ""
	var refusal error
	for range writeTries {
		if s == nil {
			if s, err = c.sight(ctx, t); err != nil {
				return err
			}
		}
		rows := changed(c.form, family, s.rows, puts, deletes)
		next := &sighting[K, V]{have: wanted(c.form, c.at.in(family), rows), rows: rows, listed: rows}
		script := s.have.script(next.have, c.at.in(family))
		switch {
		case script == "" && s.stray == "":
			c.seen[family] = s
			return nil
		case refusal != nil && script == told: // what was read before the first try was not out of date
			return c.explain(refusal)
		}
		told = script
		var sure bool
		if sure, err = c.write(ctx, t, s, next, script); err != nil && !refused(err) {
			return explain(err)
		}
		if sure {
			c.seen[family] = next
			return nil
		}
		refusal, s = err, nil
	}
	if refusal != nil {
		return c.explain(refusal)
	}
	return errUnsteady
}

// write makes next of what was seen, and tells whether it is sure that this is there then: it must be read otherwise.
func (c *keeper[K, V]) write(ctx context.Context, t *tool, s, next *sighting[K, V], script string) (sure bool, err error) {
	before, known := c.generation(t)
	if script != "" {
		if err := t.restore(ctx, script); err != nil {
			if refused(err) && len(next.rows) == 0 {
				err = errors.Join(err, c.unhook(ctx, t))
			}
			return false, err
		}
	}
	after, _ := c.generation(t)
	if s.stray != "" {
		return false, c.sweep(ctx, t)
	}
	if !known || after != before+1 {
		return false, nil
	}
	c.forget() // nobody else wrote in between: it is all from us
	return c.at.means == tablewise, nil
}

// generation is that of the rules, which the old back end does not have.
func (c *keeper[K, V]) generation(t *tool) (n uint32, sure bool) {
	if t.of != nfTables {
		return 0, false
	}
	n, err := c.k.generation()
	return n, err == nil
}

// unhook removes each rule of the hooks that leads to us until there is none. Where a hook can not be printed, how many
// there are is not known, and chains that are in use are not removed.
func (c *keeper[K, V]) unhook(ctx context.Context, t *tool) error {
	for _, h := range c.at.in(t.family).hooks {
		var err error
		for err == nil {
			err = t.do(ctx, append([]string{"-D", h.chain}, strings.Fields(h.jump)...)...)
		}
		if !refused(err) {
			return err
		}
	}
	return nil
}

// sweep removes our chains from the back end that this host no longer uses.
func (c *keeper[K, V]) sweep(ctx context.Context, t *tool) error {
	other := t.other()
	if other == nil {
		return nil
	}
	for range writeTries {
		have, err := other.survey(ctx, c.at.in(t.family))
		if err != nil {
			return err
		}
		script := have.script(emptyRuleset(), c.at.in(t.family))
		if script == "" {
			return nil
		}
		if err = other.restore(ctx, script); err == nil {
			return nil
		}
		if !refused(err) {
			return err
		}
		if gone := c.unhook(ctx, other); gone != nil {
			return gone
		}
	}
	return errUnsteady
}

// explain names the modules that the rules need where the kernel refuses one. It does not say which it lacks, but that
// there is no such file or that an argument is invalid.
func (c *keeper[K, V]) explain(err error) error {
	text, told := err.Error(), explain(err)
	for _, sign := range []string{
		"No such file", "Invalid argument", "No chain/target/match", "Could not fetch rule set generation",
		"Table does not exist", "initialize", "Couldn't load", "not supported", "Extension", "failed: COMMIT",
	} {
		if strings.Contains(text, sign) {
			return fmt.Errorf("%w: modprobe -a %s: %w", errRefused, c.at.modules, told)
		}
	}
	return told
}
