package cli

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"

	"golang.org/x/term"
)

// look is what the place that an answer is printed to can show.
type look struct {
	width  int // columns, 0 for no limit
	colour bool
}

// lookOf finds out about w. A file or a pipe gets full width and no colour, so that scripts lose nothing.
func lookOf(w io.Writer) look {
	var l look
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		l.colour = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && os.Getenv("TERM") != ""
		if width, _, err := term.GetSize(int(f.Fd())); err == nil {
			l.width = width
		}
	}
	if n, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && n > 0 {
		l.width = n
	}
	return l
}

// tone is the meaning of a colour; the value is the SGR parameter of ECMA-48.
type tone string

const (
	toneNone tone = ""
	toneGood tone = "32"
	toneWarn tone = "33"
	toneBad  tone = "31"
	toneBold tone = "1"
	toneDim  tone = "2"
)

// paint colours s where that is wanted.
func (l look) paint(t tone, s string) string {
	if !l.colour || t == toneNone || s == "" {
		return s
	}
	return "\x1b[" + string(t) + "m" + s + "\x1b[0m"
}

// wrap breaks s into lines that fit beside an indent, at spaces only: a command must stay whole to be copied.
func (l look) wrap(s string, indent int) []string {
	room := l.width - indent
	if l.width == 0 || room < 20 || width(s) <= room {
		return []string{s}
	}
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(s) {
		if line != "" && width(line)+1+width(word) > room {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}

// width is the number of columns that s takes.
func width(s string) int { return len([]rune(s)) }

// visible replaces what could move the cursor or recolour the terminal: names and messages come from other hosts too.
func visible(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return '\uFFFD'
	}, s)
}

// cut shortens s to n columns and shows that it did.
func cut(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:max(n-1, 0)]) + "…"
}

// span prints a duration in its two largest units, as one reads it aloud.
func span(d time.Duration) string {
	d = d.Round(time.Second)
	days, hours, minutes, seconds := d/(24*time.Hour), d/time.Hour%24, d/time.Minute%60, d/time.Second%60
	switch {
	case d < 0:
		return "0s"
	case days > 0:
		return fmt.Sprintf("%dd%dh", days, hours)
	case hours > 0:
		return fmt.Sprintf("%dh%dm", hours, minutes)
	case minutes > 0:
		return fmt.Sprintf("%dm%ds", minutes, seconds)
	}
	return fmt.Sprintf("%ds", seconds)
}

// count is "1 route", "2 routes".
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	if strings.HasSuffix(noun, "s") {
		return fmt.Sprintf("%d %ses", n, noun)
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
