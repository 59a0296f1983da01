package config

import (
	"strings"
	"unicode"
)

// suggest is the candidate that was most likely meant by word, if any is near enough to be a slip of the hand.
func suggest(word string, candidates []string) (string, bool) {
	const longest = 64 // nothing longer is a slip, and the distance costs the product of the lengths
	if len(word) > longest {
		return "", false
	}
	best, nearest := "", 1+max(1, len(word)/3)
	for _, c := range candidates {
		if d := distance(fold(word), fold(c)); d < nearest {
			best, nearest = c, d
		}
	}
	if best != "" {
		return best, true
	}
	for _, c := range candidates {
		if shortened(fold(word), fold(c)) || shortened(fold(c), fold(word)) {
			return c, true
		}
	}
	return "", false
}

// shortened says whether a is the beginning of b and long enough to stand for it.
func shortened(a, b string) bool {
	return len(a) > 2 && strings.HasPrefix(b, a)
}

// fold takes away what people mix up without noticing: case, and what stands between words.
func fold(s string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune("-_ ", r) {
			return -1
		}
		return unicode.ToLower(r)
	}, s)
}

// distance is the number of bytes to insert, delete, replace or swap with their neighbour between a and b: the optimal
// string alignment distance.
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before, last, row = last, row, before
		row[0] = i + 1
		for j := range len(b) {
			replace := last[j]
			if a[i] != b[j] {
				replace++
			}
			row[j+1] = min(replace, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
	}
	return row[len(b)]
}
