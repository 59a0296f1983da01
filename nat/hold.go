package nat

import (
	"errors"
	"fmt"
	"iter"
	"math/bits"
	"strconv"
	"strings"
)

// ErrTaken is wrapped with who has the port.
var ErrTaken = errors.New("port is taken")

// What may be wrong with a port that is held.
const (
	faultTaken    = Fault("taken")    // a program had it already, and may have it still
	faultChosen   = Fault("chosen")   // the kernel may choose it for a program that names no port
	faultDetached = Fault("detached") // nothing looks at what programs bind
)

// label names a port in what people read: 8080/tcp, or 192.0.2.1:8080/tcp where it is one of an address of its own.
func (p Port) label() string {
	if p.IP.IsUnspecified() {
		return fmt.Sprintf("%d/%s", p.Number, p.Proto)
	}
	return p.String()
}

// numbers is a set of port numbers. The kernel writes it as 22,8000-8005.
type numbers [1 << 16 / 64]uint64

func (s *numbers) has(n uint16) bool { return s[n/64]&(1<<(n%64)) != 0 }
func (s *numbers) add(n uint16)      { s[n/64] |= 1 << (n % 64) }
func (s *numbers) remove(n uint16)   { s[n/64] &^= 1 << (n % 64) }

// all goes through the set from the lowest.
func (s *numbers) all() iter.Seq[uint16] {
	return func(yield func(uint16) bool) {
		for i, word := range s {
			for ; word != 0; word &= word - 1 {
				if !yield(uint16(i*64 + bits.TrailingZeros64(word))) {
					return
				}
			}
		}
	}
}

// parts are the set as the kernel reads it, in texts of at most size bytes. The empty set is one text.
func (s *numbers) parts(size int) []string {
	var all []string
	var text strings.Builder
	end := func(first, last int) {
		item := strconv.Itoa(first)
		if last > first {
			item += "-" + strconv.Itoa(last)
		}
		if text.Len()+len(item)+2 > size {
			all = append(all, text.String()+"\n")
			text.Reset()
		}
		if text.Len() > 0 {
			text.WriteByte(',')
		}
		text.WriteString(item)
	}
	first, last := -1, -1
	for n := range s.all() {
		if first >= 0 && int(n) != last+1 {
			end(first, last)
			first = -1
		}
		if first < 0 {
			first = int(n)
		}
		last = int(n)
	}
	if first >= 0 {
		end(first, last)
	}
	return append(all, text.String()+"\n")
}

// parseNumbers reads what the kernel writes.
func parseNumbers(text string) (*numbers, error) {
	set := new(numbers)
	text = strings.TrimSpace(text)
	if text == "" {
		return set, nil
	}
	for item := range strings.SplitSeq(text, ",") {
		a, b, ranged := strings.Cut(item, "-")
		first, err := strconv.ParseUint(a, 10, 16)
		last := first
		if err == nil && ranged {
			last, err = strconv.ParseUint(b, 10, 16)
		}
		if err != nil {
			return nil, fmt.Errorf("%q is no port and no range of ports", item)
		}
		for n := first; n <= last; n++ {
			set.add(uint16(n))
		}
	}
	return set, nil
}
