package config

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Problem is one mistake and where it was made.
type Problem struct {
	File    string // the file, "environment:NAME" for a variable, or "defaults"
	Line    int    // from 1; 0 where there are no lines
	Col     int    // in bytes, from 1
	Message string // one line
}

// String is file:line:col: message, as compilers write it and editors read it.
func (p Problem) String() string {
	if p.Line == 0 {
		return p.File + ": " + p.Message
	}
	return fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Col, p.Message)
}

// Problems are all mistakes of a config, in the order in which it is read. They are the error that Load returns.
type Problems []Problem

// Error is one problem a line.
func (p Problems) Error() string {
	return strings.Join(p.Strings(), "\n")
}

// Strings are the problems as text, each one line.
func (p Problems) Strings() []string {
	lines := make([]string, 0, len(p))
	for _, one := range p {
		lines = append(lines, one.String())
	}
	return lines
}

// mostProblems bounds what one bad file can make us say; nobody mends more than this in one go.
const mostProblems = 200

// position is where something stands.
type position struct {
	file      string
	line, col int
}

func (p position) String() string {
	if p.line == 0 {
		return p.file
	}
	return fmt.Sprintf("%s:%d:%d", p.file, p.line, p.col)
}

// findings collects problems while a config is read.
type findings struct {
	found   Problems
	order   []string // files as they came, to sort by
	dropped int
}

// add notes a problem, the same one only once.
func (f *findings) add(at position, format string, args ...any) {
	if f.full() {
		f.dropped++
		return
	}
	p := Problem{at.file, at.line, at.col, fmt.Sprintf(format, args...)}
	if !slices.Contains(f.found, p) {
		f.found = append(f.found, p)
	}
}

// full says that what is found from here on is only counted. Whoever must think to explain it can save the effort.
func (f *findings) full() bool { return len(f.found) >= mostProblems }

// in says that a file is being read, for the order of what is found there.
func (f *findings) in(file string) { f.order = append(f.order, file) }

// err is everything found so far, nil when that is nothing.
func (f *findings) err() error {
	if len(f.found) == 0 {
		return nil
	}
	rank := func(p Problem) int {
		if i := slices.Index(f.order, p.File); i >= 0 {
			return i
		}
		return len(f.order)
	}
	slices.SortStableFunc(f.found, func(a, b Problem) int {
		return cmp.Or(rank(a)-rank(b), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
	})
	if f.dropped == 0 {
		return f.found
	}
	last := f.found[len(f.found)-1]
	last.Message = fmt.Sprintf("and %d more mistakes, here and elsewhere", f.dropped)
	return append(f.found, last)
}

// quote makes any input fit for one line of a terminal.
func quote(s string) string {
	const most = 64
	if len(s) <= most {
		return strconv.Quote(s)
	}
	cut := most
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return strconv.Quote(s[:cut]) + "…"
}

// plain is quote for names that are printed without quotes.
func plain(s string) string {
	for _, r := range s {
		if !unicode.IsGraphic(r) || r == utf8.RuneError {
			return quote(s)
		}
	}
	return s
}

// choices is `"a", "b"`.
func choices(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = strconv.Quote(w)
	}
	return strings.Join(quoted, ", ")
}
