package nat

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestNumbersAreWrittenAsTheKernelWritesThem(t *testing.T) {
	for _, c := range []struct {
		set  []uint16
		want string
	}{
		{nil, "\n"},
		{[]uint16{0}, "0\n"},
		{[]uint16{65535}, "65535\n"},
		{[]uint16{22, 8000, 8001, 8002, 8004}, "22,8000-8002,8004\n"},
		{[]uint16{63, 64, 127, 128}, "63-64,127-128\n"},
	} {
		var s numbers
		for _, n := range c.set {
			s.add(n)
		}
		if got := s.parts(100); !slices.Equal(got, []string{c.want}) {
			t.Errorf("%v is written as %q", c.set, got)
		}
	}
	for _, bad := range []string{"x", "1,", "1-", "70000", "-1", "1 2"} {
		if set, err := parseNumbers(bad); err == nil {
			t.Errorf("%q is read as %v", bad, slices.Collect(set.all()))
		}
	}
}

// TestNumbersAndBack writes any set in parts of any size, and reads it from them together.
func TestNumbersAndBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.SliceOfDistinct(rapid.Uint16(), rapid.ID).Draw(t, "ports")
		slices.Sort(want)
		size := rapid.IntRange(13, 200).Draw(t, "size") // one range takes 12 bytes at most
		var s numbers
		for _, n := range want {
			s.add(n)
		}
		var text []string
		for _, part := range s.parts(size) {
			if len(part) > size {
				t.Fatalf("%q has %d bytes", part, len(part))
			}
			text = append(text, strings.TrimSpace(part))
		}
		got, err := parseNumbers(strings.Join(text, ","))
		if err != nil || !slices.Equal(slices.Collect(got.all()), want) {
			t.Fatalf("%v became %v, %v", want, slices.Collect(got.all()), err)
		}
		for _, n := range want {
			if got.remove(n); got.has(n) {
				t.Fatalf("%d is there when it was taken away", n)
			}
		}
		if *got != (numbers{}) {
			t.Fatal("something is left")
		}
	})
}
