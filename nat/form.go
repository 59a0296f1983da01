package nat

import (
	"maps"
	"slices"
)

// form is how rows become rules in chains, and rules rows again.
type form[K, V comparable] interface {
	family(k K) int
	// chains are the rules of rows of one family.
	chains(rows map[K]V) map[string][]string
	// row reads a rule, and says in which words we write it.
	row(line string, family int) (k K, v V, text string, ours bool)
	// path are the chains that lead to the rule of a row, the one that it is in as the last.
	path(k K) []string
	// faulty is a row that is not in order.
	faulty(v V, f Fault) V
	// leftover is the row that stands for what is there without any row of ours.
	leftover(family int) (K, V)
}

// sighting is what one family's table has at a site.
type sighting[K, V comparable] struct {
	have   ruleset
	rows   map[K]V // what of it is rows of ours, whether or not they are in order
	listed map[K]V // the same, with what is wrong with them, and what is left over
	stray  string  // the tool of another back end that has a chain of ours too, "" when none has
}

// wanted is the ruleset of rows of one family.
func wanted[K, V comparable](f form[K, V], at site, rows map[K]V) ruleset {
	if len(rows) == 0 {
		return emptyRuleset()
	}
	return ruleset{chains: f.chains(rows), jumps: at.jumps()}
}

// recognise finds the rows in what is there.
func recognise[K, V comparable](f form[K, V], at site, have ruleset, family int, stray string) *sighting[K, V] {
	s := &sighting[K, V]{have: have, rows: make(map[K]V), stray: stray}
	for chain, lines := range have.chains {
		for i, line := range lines {
			k, v, text, ours := f.row(line, family)
			if !ours {
				continue
			}
			_, twice := s.rows[k]
			if path := f.path(k); !twice && path[len(path)-1] == chain {
				s.rows[k], lines[i] = v, text
			}
		}
	}
	faults := have.broken(wanted(f, at, s.rows), at)
	if stray != "" {
		faults[at.chain] = Fault("also in " + stray)
	}
	s.listed = blamed(f, s.rows, faults, family)
	return s
}

// blamed are the rows with the faults of the chains that lead to them.
func blamed[K, V comparable](f form[K, V], rows map[K]V, faults map[string]Fault, family int) map[K]V {
	if len(faults) == 0 {
		return rows
	}
	listed := make(map[K]V, len(rows))
	told := false
	for k, v := range rows {
		listed[k] = v
		for _, chain := range f.path(k) {
			if fault, bad := faults[chain]; bad && fault != loose {
				listed[k], told = f.faulty(v, fault), true
				break
			}
		}
	}
	if !told {
		k, v := f.leftover(family)
		listed[k] = v
	}
	return listed
}

// changed are rows after puts and deletes of one family.
func changed[K, V comparable](f form[K, V], family int, rows, puts map[K]V, deletes []K) map[K]V {
	after := maps.Clone(rows)
	for k, v := range puts {
		if f.family(k) == family {
			after[k] = v
		}
	}
	for _, k := range deletes {
		delete(after, k)
	}
	return after
}

// entryForm has all rules in one chain, in the order of their names.
type entryForm struct{ chain string }

func (entryForm) family(k EntryKey) int { return k.Family }

func (f entryForm) chains(rows map[EntryKey]Entry) map[string][]string {
	lines := make([]string, 0, len(rows))
	for _, k := range slices.SortedFunc(maps.Keys(rows), EntryKey.compare) {
		lines = append(lines, join(rows[k].named(k.Name)))
	}
	return map[string][]string{f.chain: lines}
}

func (f entryForm) row(text string, family int) (k EntryKey, r Entry, canon string, ours bool) {
	name, r, ours := line(words(text)).rule()
	if !ours {
		return k, r, "", false
	}
	return EntryKey{name, family}, r, join(r.named(name)), true
}

func (f entryForm) path(EntryKey) []string { return []string{f.chain} }

func (entryForm) faulty(r Entry, fault Fault) Entry { return Entry{Spec: r.Spec, Fault: fault} }

func (entryForm) leftover(family int) (EntryKey, Entry) {
	return EntryKey{leftover, family}, Entry{Fault: leftover}
}
