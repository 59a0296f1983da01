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
	least int  // columns that it may be cut down to, 0: it is never cut
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

// fit chooses the columns to show and their widths. Cutting comes before leaving out.
func (t *table) fit(limit int) (show, widths []int) {
	natural := t.natural()
	for i := range t.columns {
		show = append(show, i)
	}
	for {
		widths = slices.Clone(natural)
		if limit == 0 || t.squeeze(show, widths, limit) {
			return show, widths
		}
		out := t.nextOut(show)
		if out < 0 {
			return show, widths
		}
		show = slices.Delete(show, out, out+1)
	}
}

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
func (t *table) squeeze(show, widths []int, limit int) bool {
	total := gutter * (len(show) - 1)
	for _, i := range show {
		total += widths[i]
	}
	for total > limit {
		widest := -1
		for _, i := range show {
			least := t.columns[i].least
			if least > 0 && widths[i] > least && (widest < 0 || widths[i] > widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			return false
		}
		widths[widest]--
		total--
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
