package nat

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// errUnprintable is a table with rules that only nft can print.
var errUnprintable = errors.New("the table has rules that iptables can not print")

// kin is the program that restores or saves rules in the same back end as the tool. It stands beside the tool, or beside
// the file that the tool's name leads to, under the name of its back end or, with older versions, under the plain one.
func (t *tool) kin(ctx context.Context, what string) (path string, err error) {
	plain := map[int]string{4: "iptables", 6: "ip6tables"}[t.family]
	names := []string{plain + "-" + string(t.of) + "-" + what, plain + "-" + what}
	var paths []string
	for _, name := range names {
		paths = append(paths, filepath.Join(filepath.Dir(t.path), name), filepath.Join(filepath.Dir(t.real), name))
		if path, err := exec.LookPath(name); err == nil {
			paths = append(paths, path)
		}
	}
	for _, path := range paths {
		if _, err := os.Stat(path); err != nil {
			continue
		}
		version, err := start(ctx, "", path, "--version")
		switch {
		case ctx.Err() != nil:
			return "", err
		case err == nil && strings.Contains(version[0], "nf_tables") == (t.of == nfTables):
			return path, nil
		}
	}
	return "", fmt.Errorf("find %s for %s: %w: apt-get install iptables", names[0], t.path, exec.ErrNotFound)
}

// restore has a script of iptables-restore change the table, at once or not at all. What the script does not name stays.
func (t *tool) restore(ctx context.Context, script string) (err error) {
	if t.restorer == "" {
		if t.restorer, err = t.kin(ctx, "restore"); err != nil {
			return err
		}
	}
	_, err = start(ctx, script, t.restorer, "-w", lockTime, "--noflush")
	var r *refusal
	if errors.As(err, &r) {
		status := r.status
		if status == exitBusy && !strings.Contains(r.said, "lock") {
			status = 1 // so it ends too when it was the kernel who refused the rules
		}
		return &refusal{r.command, status, complaint(r.said, script)}
	}
	return err
}

// complaint is what iptables-restore says, in one line and with the line of the script that it says it of.
func complaint(said, script string) string {
	text := strings.Join(strings.Fields(strings.ReplaceAll(strings.ReplaceAll(said, ": \n", ": "), "\n", "; ")), " ")
	text, _, _ = strings.Cut(text, "; Try `")
	text = strings.TrimRight(text, "; ")
	found := regexp.MustCompile(`line:? (\d+)`).FindStringSubmatch(text)
	if found == nil {
		return text
	}
	lines := strings.Split(script, "\n")
	if n, err := strconv.Atoi(found[1]); err == nil && n >= 1 && n <= len(lines) {
		return text + ": " + lines[n-1]
	}
	return text
}

// save prints the table.
func (t *tool) save(ctx context.Context) (printed []string, err error) {
	if t.saver == "" {
		if t.saver, err = t.kin(ctx, "save"); err != nil {
			return nil, err
		}
	}
	printed, err = start(ctx, "", t.saver, "-t", t.table)
	if err == nil && slices.ContainsFunc(printed, func(line string) bool {
		return strings.HasPrefix(line, "#") && strings.Contains(line, "incompatible")
	}) {
		return nil, errUnprintable
	}
	return printed, err
}

// survey reads what the table has at a site. Nothing is there where it can not be read: whoever puts a rule learns why.
func (t *tool) survey(ctx context.Context, at site) (ruleset, error) {
	have := emptyRuleset()
	chain := at.chain
	if at.means == tablewise {
		chain = "" // of many chains the first may be gone and others left
	}
	if t.vacant() || t.lacks(chain) {
		return have, nil
	}
	if at.means == tablewise {
		printed, err := t.save(ctx)
		switch {
		case err == nil:
			have.learn(printed, at)
			return have, nil
		case !refused(err) && !errors.Is(err, errUnprintable) && !errors.Is(err, exec.ErrNotFound):
			return have, explain(err)
		}
	}
	return have, t.walk(ctx, at, have)
}

// walk reads chain by chain from where the hooks lead to.
func (t *tool) walk(ctx context.Context, at site, have ruleset) error {
	for next := []string{at.chain}; len(next) > 0; next = next[1:] {
		chain := next[0]
		if _, known := have.chains[chain]; known {
			continue
		}
		printed, err := t.list(ctx, chain)
		switch {
		case err == nil:
			have.learn(printed, at)
			for _, line := range have.chains[chain] {
				if to := leads(line); at.ours(to) {
					next = append(next, to)
				}
			}
		case !refused(err):
			return explain(err)
		case chain != at.chain: // it is there, since a rule leads to it
			have.chains[chain] = []string{unknown}
		default:
			there, err := t.seek(ctx, chain, at.hooks[0].chain)
			if err != nil {
				return explain(err)
			}
			if there == missing {
				return nil
			}
			have.chains[chain] = []string{unknown}
		}
	}
	for _, h := range at.hooks {
		if err := t.ask(ctx, at, h, have); err != nil {
			return explain(err)
		}
	}
	return nil
}

// ask reads a hook. Where it can not be printed it is found out whether our rule is in it, but not how often.
func (t *tool) ask(ctx context.Context, at site, h hook, have ruleset) error {
	printed, err := t.list(ctx, h.chain)
	if err == nil {
		have.learn(printed, at)
		return nil
	}
	if !refused(err) {
		return err
	}
	switch err = t.do(ctx, append([]string{"-C", h.chain}, strings.Fields(h.jump)...)...); {
	case err == nil:
		have.jumps[h.chain] = []string{h.jump}
	case !unmatched(err):
		return err
	}
	return nil
}
