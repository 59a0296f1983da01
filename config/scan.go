package config

import (
	"bytes"
	"errors"
	"sort"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// assignment is a key that a file or a variable gives a value: string, int64, bool or []string.
type assignment struct {
	key   string // dotted, "bgp.asn"
	value any
	at    position   // of the value
	parts []position // of what is in it, when it is a list
}

// element is one [[pool]], [[endpoint]] or [[bgp.peer]].
type element struct {
	table  string
	at     position
	fields map[string]assignment // by the name within the table
}

// scan walks through one file and collects what it says. It goes on after a mistake, at the next line if need be.
type scan struct {
	doc   []byte
	file  string
	lines []int // offset of the first byte of each line
	base  int   // offset of what the parser is at work on
	shape shape
	*findings

	here     place
	seen     map[string]position // keys and [table] headers
	scalars  []assignment
	elements []*element
}

// place is the table that a key is read into.
type place struct {
	table   string
	element *element // of a list of tables, else nil
	lost    bool     // the header made no sense, so neither would the keys below it
}

// part is one word of a dotted key.
type part struct {
	name string
	at   int // offset
	end  int
}

func newScan(file string, doc []byte, s shape, f *findings) *scan {
	lines := []int{0}
	for i, c := range doc {
		if c == '\n' {
			lines = append(lines, i+1)
		}
	}
	return &scan{doc: doc, file: file, lines: lines, shape: s, findings: f, seen: map[string]position{}}
}

// run reads the whole file.
func (s *scan) run() {
	before := len(s.found) + s.dropped
	p := new(unstable.Parser)
	for s.base < len(s.doc) {
		p.Reset(s.doc[s.base:])
		for p.NextExpression() {
			s.expression(p.Expression())
		}
		var bad *unstable.ParserError
		if !errors.As(p.Error(), &bad) {
			break
		}
		s.stumble(bad, cap(p.Data())-cap(bad.Highlight))
	}
	if len(s.found)+s.dropped == before {
		s.confirm()
	}
}

// stumble reports a syntax error and moves on to the next line that looks like the beginning of something.
func (s *scan) stumble(bad *unstable.ParserError, offset int) {
	offset = s.base + min(max(offset, 0), len(s.doc)-s.base-1)
	s.add(s.position(offset), "syntax error: %s%s", bad.Message, hint(bad.Message))
	line := s.line(offset)
	if bytes.HasPrefix(bytes.TrimLeft(s.text(line), " \t"), []byte("[")) {
		s.here = place{lost: true}
	}
	for line++; line < len(s.lines); line++ {
		if text := bytes.TrimLeft(s.text(line), " \t"); bytes.HasPrefix(text, []byte("[")) || bytes.ContainsRune(text, '=') {
			s.base = s.lines[line]
			return
		}
	}
	s.base = len(s.doc)
}

// hint adds to the parser's words what a person most often did.
func hint(message string) string {
	switch {
	case strings.Contains(message, "U+000A at start of value"):
		return "; the value is missing"
	case strings.HasPrefix(message, "expected newline") || strings.HasSuffix(message, "at start of value"):
		return "; does a string lack its quotes?"
	}
	return ""
}

// confirm lets go-toml's strict decoder look for what this walk has overlooked.
func (s *scan) confirm() {
	err := toml.NewDecoder(bytes.NewReader(s.doc)).DisallowUnknownFields().Decode(new(document))
	var unknown *toml.StrictMissingError
	var bad *toml.DecodeError
	switch {
	case err == nil:
	case errors.As(err, &unknown):
		for _, e := range unknown.Errors {
			line, col := e.Position()
			s.add(position{s.file, line, col}, "unknown key %s", quote(strings.Join(e.Key(), ".")))
		}
	case errors.As(err, &bad):
		line, col := bad.Position()
		s.add(position{s.file, line, col}, "%s", strings.TrimPrefix(bad.Error(), "toml: "))
	default:
		s.add(position{s.file, 1, 1}, "%v", err)
	}
}

func (s *scan) line(offset int) int {
	return sort.SearchInts(s.lines, offset+1) - 1
}

// text is a line, with its end and what follows cut off.
func (s *scan) text(line int) []byte {
	text, _, _ := bytes.Cut(s.doc[s.lines[line]:], []byte("\n"))
	return text
}

func (s *scan) position(offset int) position {
	line := s.line(offset)
	return position{s.file, line + 1, offset - s.lines[line] + 1}
}

func (s *scan) expression(n *unstable.Node) {
	switch n.Kind {
	case unstable.Table:
		s.enter(s.parts(n), table)
	case unstable.ArrayTable:
		s.enter(s.parts(n), tables)
	case unstable.KeyValue:
		s.assign(s.here, n)
	}
}

// parts are the words of the key of a header or an assignment.
func (s *scan) parts(n *unstable.Node) []part {
	var parts []part
	for it := n.Key(); it.Next(); {
		k := it.Node()
		at := s.base + int(k.Raw.Offset)
		parts = append(parts, part{string(k.Data), at, at + int(k.Raw.Length)})
	}
	return parts
}

// enter takes up a [table] or [[list of tables]].
func (s *scan) enter(parts []part, written kind) {
	at := s.position(parts[0].at)
	s.here = place{lost: true}
	path, ok := s.resolve("", parts, true)
	if !ok {
		return
	}
	switch k := s.shape[path]; {
	case k == tables:
		if written == table {
			s.add(at, "[%s] can be there several times: write [[%s]]", path, path)
		}
		s.here = s.begin(path, at)
		return
	case k != table:
		s.add(at, "%s is %s, not a table", path, k.want())
		return
	case written == tables:
		s.add(at, "[[%s]] is there only once: write [%s]", path, path)
	}
	if first, again := s.seen["["+path]; again {
		s.add(at, "[%s] is there twice; the first is in line %d", path, first.line)
	}
	s.seen["["+path] = at
	s.here = place{table: path}
}

// begin starts another element of a list of tables.
func (s *scan) begin(path string, at position) place {
	e := &element{table: path, at: at, fields: map[string]assignment{}}
	s.elements = append(s.elements, e)
	return place{table: path, element: e}
}

// resolve follows a dotted key down the shape. It reports a key that is not there.
func (s *scan) resolve(from string, parts []part, header bool) (path string, ok bool) {
	path = from
	for i, p := range parts {
		next := join(path, p.name)
		k, known := s.shape[next]
		// A quoted key may hold a dot, and would then look like two.
		if !known || p.name == "" || strings.Contains(p.name, ".") {
			s.unknown(path, p, header)
			return "", false
		}
		path = next
		if last := i == len(parts)-1; last || k == table || k == tables && header {
			continue
		}
		if k == tables {
			s.add(s.position(p.at), "%s is a list of tables: write [[%s]] above its keys", path, path)
		} else {
			s.add(s.position(p.at), "%s is %s, not a table", path, k.want())
		}
		return "", false
	}
	return path, true
}

// unknown reports a key that does not exist, and what may have been meant.
func (s *scan) unknown(parent string, p part, header bool) {
	what := "unknown key " + quote(p.name)
	if header {
		what = "unknown table " + quote(p.name)
	}
	switch {
	case parent != "":
		what += " in " + s.shape.header(parent)
	case !header:
		what += " at the top level"
	}
	s.add(s.position(p.at), "%s; %s", what, s.meant(parent, p.name, header))
}

// meant says what is near an unknown name, or what there is.
func (s *scan) meant(parent, name string, header bool) string {
	if s.full() {
		return ""
	}
	names := s.shape.children(parent, header)
	guess, near := suggest(name, names)
	homes := s.shape.homes(name, header)
	switch {
	case near && header:
		return "did you mean " + s.shape.header(join(parent, guess)) + "?"
	case near:
		return "did you mean " + strconv.Quote(guess) + "?"
	case len(homes) > 0 && header:
		return "did you mean " + strings.Join(homes, " or ") + "?"
	case len(homes) > 0:
		return "it belongs in " + strings.Join(homes, " or ")
	case len(names) == 0:
		return "there are no tables in it"
	}
	return "allowed: " + strings.Join(names, ", ")
}

// assign takes up one key = value below a table.
func (s *scan) assign(here place, n *unstable.Node) {
	if here.lost {
		return
	}
	parts := s.parts(n)
	path, ok := s.resolve(here.table, parts, false)
	if !ok {
		return
	}
	value, at := n.Value(), s.position(s.valueOffset(parts[len(parts)-1].end))
	switch k := s.shape[path]; {
	case k == table && value.Kind == unstable.InlineTable:
		s.inline(place{table: path}, value)
	case k == tables && value.Kind == unstable.Array:
		s.inlineList(path, value, at)
	default:
		s.set(here, path, s.position(parts[0].at), at, value)
	}
}

// valueOffset is where the value behind a key begins; arrays do not tell.
func (s *scan) valueOffset(end int) int {
	rest := bytes.TrimLeft(s.doc[end:], " \t=")
	return min(len(s.doc)-len(rest), len(s.doc)-1)
}

func (s *scan) inline(here place, n *unstable.Node) {
	for it := n.Children(); it.Next(); {
		s.assign(here, it.Node())
	}
}

func (s *scan) inlineList(path string, n *unstable.Node, at position) {
	for it := n.Children(); it.Next(); {
		if it.Node().Kind != unstable.InlineTable {
			s.add(at, "%s: want a list of tables, got %s in it", path, describe(it.Node()))
			return
		}
		s.inline(s.begin(path, s.position(s.base+int(it.Node().Raw.Offset))), it.Node())
	}
}

// set keeps the value of a key that has not been set before.
func (s *scan) set(here place, path string, keyAt, at position, n *unstable.Node) {
	if first, again := s.first(here, path); again {
		s.add(keyAt, "%s is set twice; the first is in line %d", path, first.line)
		return
	}
	value, complaint := convert(s.shape[path], n)
	if complaint != "" {
		s.add(at, "%s: %s", path, complaint)
	}
	a := assignment{key: path, value: value, at: at}
	for it := n.Children(); s.shape[path] == list && it.Next(); {
		a.parts = append(a.parts, s.position(s.base+int(it.Node().Raw.Offset)))
	}
	if here.element != nil {
		_, name := split(path)
		here.element.fields[name] = a
		return
	}
	s.seen[path] = keyAt
	if value != nil {
		s.scalars = append(s.scalars, a)
	}
}

func (s *scan) first(here place, path string) (position, bool) {
	if here.element == nil {
		at, again := s.seen[path]
		return at, again
	}
	_, name := split(path)
	a, again := here.element.fields[name]
	return a.at, again
}
