package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestTableFits: whatever is in a table and however narrow the terminal, no line is wider as long as it is not absurdly
// narrow, every row is there, and a table without a limit is cut nowhere.
func TestTableFits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		columns := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) column {
			return column{
				title: rapid.StringMatching(`[A-Z]{1,12}`).Draw(t, "title"),
				right: rapid.Bool().Draw(t, "right"),
				least: rapid.IntRange(0, 20).Draw(t, "least"),
				drop:  rapid.IntRange(0, 5).Draw(t, "drop"),
			}
		}), 1, 8).Draw(t, "columns")
		tab := table{columns: columns}
		rows := rapid.IntRange(0, 5).Draw(t, "rows")
		for range rows {
			texts := make([]string, len(columns))
			for i := range texts {
				texts[i] = rapid.StringN(0, 50, -1).Draw(t, "text")
			}
			tab.add(texts...)
		}
		limit := rapid.IntRange(len(columns)*(narrowest+gutter), 200).Draw(t, "limit")
		var narrow, wide bytes.Buffer
		if tab.print(&narrow, look{width: limit}) != nil || tab.print(&wide, look{}) != nil {
			t.Fatal("print failed")
		}
		lines := strings.Split(strings.TrimSuffix(narrow.String(), "\n"), "\n")
		if len(lines) != rows+1 {
			t.Fatalf("%d lines for %d rows:\n%s", len(lines), rows, narrow.String())
		}
		for _, line := range lines {
			if width(line) > limit {
				t.Fatalf("line of %d columns, want at most %d: %q", width(line), limit, line)
			}
		}
		for _, row := range tab.rows {
			for _, c := range row {
				if !strings.Contains(wide.String(), c.text) {
					t.Fatalf("%q is missing without a limit", c.text)
				}
			}
		}
	})
}

func TestWords(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 0: "0s", 59 * time.Second: "59s", 61 * time.Second: "1m1s", 3*time.Hour + 5*time.Minute: "3h5m",
		26 * time.Hour: "1d2h", 400 * 24 * time.Hour: "400d0h",
	} {
		if got := span(d); got != want {
			t.Errorf("span(%s) = %s, want %s", d, got, want)
		}
	}
	for _, test := range []struct {
		n    int
		noun string
		want string
	}{{0, "route", "0 routes"}, {1, "address", "1 address"}, {2, "address", "2 addresses"}} {
		if got := count(test.n, test.noun); got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
	if got := visible("a\x1b[31mb\u009bc\td\ne"); got != "a\uFFFD[31mb\uFFFDc\td\ne" {
		t.Errorf("visible: %q", got)
	}
	if got := strings.Join(look{width: 30}.wrap("words that go over the end, and /a/path/that/has/no/space/at/all/in/it", 4), "|"); got !=
		"words that go over the|end, and|/a/path/that/has/no/space/at/all/in/it" {
		t.Errorf("wrap: %q", got)
	}
}
