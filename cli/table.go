package cli

import (
	"io"
	"slices"
	"strings"
)

// column is one column of a table and how it gives way when the terminal is narrow.
type column struct {
	title string
	right bool // numbers
	least int  // it may be cut down to this width, 0: only when nothing else helps
	drop  int  // the highest goes first when cutting is not enough, 0: it always stays
}

// cell is one value and what its colour means.
type cell struct {
	text string
	tone tone
}

func plainCell(s string) cell { return cell{text: s} }

const gutter = 2 // spaces between two columns

// table is rows below titles.
type table struct {
	columns []column
	rows    [][]cell
}

// add appends a row of plain cells; an empty one is shown as a dash, so that awk counts columns right.
func (t *table) add(texts ...string) {
	row := make([]cell, len(texts))
	for i, s := range texts {
		row[i] = plainCell(s)
	}
	t.addCells(row...)
}

func (t *table) addCells(row ...cell) {
	for i := range row {
		row[i].text = strings.TrimSpace(strings.ReplaceAll(visible(row[i].text), "\n", "; "))
		if row[i].text == "" {
			row[i].text = "-"
		}
	}
	t.rows = append(t.rows, row)
}

// print writes the table so that no line is wider than l, as long as what may be cut or left out allows it.
func (t *table) print(w io.Writer, l look) error {
	show, widths := t.fit(l.width)
	var b strings.Builder
	titles := make([]cell, len(t.columns))
	for i, c := range t.columns {
		titles[i] = cell{c.title, toneBold}
	}
	t.line(&b, l, show, widths, titles)
	for _, row := range t.rows {
		t.line(&b, l, show, widths, row)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (t *table) line(b *strings.Builder, l look, show, widths []int, row []cell) {
	for n, i := range show {
		text := cut(row[i].text, widths[i])
		pad := strings.Repeat(" ", widths[i]-width(text))
		text = l.paint(row[i].tone, text)
		last := n == len(show)-1
		switch {
		case t.columns[i].right:
			b.WriteString(pad + text)
		case last:
			b.WriteString(text)
		default:
			b.WriteString(text + pad)
		}
		if !last {
			b.WriteString(strings.Repeat(" ", gutter))
		}
	}
	b.WriteByte('\n')
}

// fit chooses the columns to show and their widths: first those are cut that may be, then columns are left out, and in
// the end the widest must give way.
func (t *table) fit(limit int) (show, widths []int) {
	natural := t.natural()
	for i := range t.columns {
		show = append(show, i)
	}
	for {
		widths = slices.Clone(natural)
		if limit == 0 || squeeze(show, widths, limit, func(i int) int { return t.columns[i].least }) {
			return show, widths
		}
		out := t.nextOut(show)
		if out < 0 {
			break
		}
		show = slices.Delete(show, out, out+1)
	}
	squeeze(show, widths, limit, func(int) int { return narrowest })
	return show, widths
}

const narrowest = 6 // no column is cut below this width

func (t *table) natural() []int {
	widths := make([]int, len(t.columns))
	for i, c := range t.columns {
		widths[i] = width(c.title)
		for _, row := range t.rows {
			widths[i] = max(widths[i], width(row[i].text))
		}
	}
	return widths
}

// squeeze cuts the widest column that may be cut, one step at a time, and says whether the line fits then.
func squeeze(show, widths []int, limit int, least func(column int) int) bool {
	total := gutter * (len(show) - 1)
	for _, i := range show {
		total += widths[i]
	}
	for ; total > limit; total-- {
		widest := -1
		for _, i := range show {
			if n := least(i); n > 0 && widths[i] > n && (widest < 0 || widths[i] > widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			return false
		}
		widths[widest]--
	}
	return true
}

// nextOut is the position in show of the column to leave out next, -1 when all must stay.
func (t *table) nextOut(show []int) int {
	out := -1
	for n, i := range show {
		if d := t.columns[i].drop; d > 0 && (out < 0 || d > t.columns[show[out]].drop) {
			out = n
		}
	}
	return out
}
