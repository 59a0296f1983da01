package config

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// errKind can not be seen by a user: values are of the kind of their key before they come here.
var errKind = errors.New("value of another type")

func number(lo, hi int64) parser[int64] {
	return func(v any) (int64, error) {
		n, ok := v.(int64)
		if !ok {
			return 0, errKind
		}
		if n < lo || n > hi {
			return 0, fmt.Errorf("%d is out of range; allowed: %d to %d", n, lo, hi)
		}
		return n, nil
	}
}

// asn reads the number of an autonomous system that a speaker can have.
func asn(v any) (uint32, error) {
	n, err := number(1, math.MaxUint32-1)(v) // RFC 7607 forbids 0, RFC 7300 the last
	if err != nil {
		return 0, err
	}
	if n == 23456 || n == math.MaxUint16 {
		return 0, fmt.Errorf("%d is a reserved number (RFC 6793, RFC 7300)", n)
	}
	return uint32(n), nil
}

func port(v any) (uint16, error) {
	n, err := number(1, math.MaxUint16)(v)
	return uint16(n), err
}

// mtu reads the size of an inner packet. 576 is the least a host must take by RFC 791.
func mtu(v any) (int, error) {
	if v == int64(0) {
		return 0, nil
	}
	n, err := number(576, math.MaxUint16)(v)
	if err != nil {
		return 0, fmt.Errorf("%w, or 0 for what the underlay leaves", err)
	}
	return int(n), nil
}

func boolean(v any) (bool, error) {
	b, ok := v.(bool)
	if !ok {
		return false, errKind
	}
	return b, nil
}

func line(v any) (string, error) {
	s, ok := v.(string)
	if !ok {
		return "", errKind
	}
	return s, nil
}

// toggle reads true and false; a key that is not there is Auto.
func toggle(v any) (Switch, error) {
	b, err := boolean(v)
	if b {
		return On, err
	}
	return Off, err
}

// word reads one of the allowed words.
func word(allowed ...string) parser[string] {
	return func(v any) (string, error) {
		s, err := line(v)
		if err != nil || slices.Contains(allowed, s) {
			return s, err
		}
		complaint := fmt.Sprintf("unknown word %s; allowed: %s", quote(s), choices(allowed))
		if guess, ok := suggest(s, allowed); ok {
			complaint += fmt.Sprintf("; did you mean %q?", guess)
		}
		return "", errors.New(complaint)
	}
}

// words reads a list, not empty, of allowed words.
func words(allowed ...string) parser[[]string] {
	return func(v any) ([]string, error) {
		list, ok := v.([]string)
		if !ok {
			return nil, errKind
		}
		if len(list) == 0 {
			return nil, fmt.Errorf("an empty list is not in this release; allowed: %s", choices(allowed))
		}
		for i, s := range list {
			if _, err := word(allowed...)(s); err != nil {
				return nil, err
			}
			if slices.Contains(list[:i], s) {
				return nil, fmt.Errorf("%q is there twice", s)
			}
		}
		return list, nil
	}
}

// length reads a duration that is longer than zero.
func length(v any) (time.Duration, error) {
	s, err := line(v)
	if err != nil {
		return 0, err
	}
	d, err := time.ParseDuration(s)
	switch {
	case err != nil && bare(s):
		return 0, fmt.Errorf("%s has no unit; did you mean %q?", quote(s), s+"s")
	case err != nil:
		return 0, fmt.Errorf(`%s is not a duration; write a number with a unit, such as "500ms", "9s" or "2m"`, quote(s))
	case d <= 0:
		return 0, fmt.Errorf("%s is not longer than zero", quote(s))
	}
	return d, nil
}

// between reads a duration from lo to hi.
func between(lo, hi time.Duration) parser[time.Duration] {
	return func(v any) (time.Duration, error) {
		d, err := length(v)
		if err == nil && (d < lo || d > hi) {
			return 0, fmt.Errorf("%s is out of range; allowed: %v to %v", quote(v.(string)), lo, hi)
		}
		return d, err
	}
}

// seconds reads a duration that a message carries as whole seconds in a field of its own width.
func seconds(lo, hi int64, source string) parser[time.Duration] {
	return func(v any) (time.Duration, error) {
		d, err := length(v)
		if err != nil {
			return 0, err
		}
		if d%time.Second != 0 || d < time.Duration(lo)*time.Second || d > time.Duration(hi)*time.Second {
			return 0, fmt.Errorf(`%s is not allowed; allowed: whole seconds from "%ds" to "%ds" (%s)`, quote(v.(string)), lo, hi, source)
		}
		return d, nil
	}
}

func bare(s string) bool {
	_, err := strconv.ParseUint(s, 10, 16)
	return err == nil
}

// path reads an absolute path. The daemon's working directory is nobody's business.
func path(v any) (string, error) {
	s, err := line(v)
	switch {
	case err != nil:
		return "", err
	case s == "":
		return "", errors.New("the path is empty")
	case !filepath.IsAbs(s):
		return "", fmt.Errorf("%s is not an absolute path", quote(s))
	case strings.ContainsRune(s, 0) || len(s) >= 4096: // PATH_MAX of linux/limits.h
		return "", fmt.Errorf("%s is not a path", quote(s))
	}
	return filepath.Clean(s), nil
}

// program reads the path of a program that the daemon will run as root.
func program(v any) (string, error) {
	s, err := path(v)
	if err != nil {
		return "", err
	}
	if err := runnable(s); err != nil {
		return "", fmt.Errorf("%s: %w", quote(s), err)
	}
	return s, nil
}

// socket reads the path of a unix socket.
func socket(v any) (string, error) {
	const longest = 107 // sun_path of unix(7), less the final zero
	s, err := path(v)
	if err == nil && len(s) > longest {
		return "", fmt.Errorf("%s is longer than the %d bytes that a socket's path can have", quote(s), longest)
	}
	return s, err
}

// name reads what is fit to be a host name, a label of a metric, and a word of a command line.
func name(v any) (string, error) { return named(v, 63) }

// endpointName reads a name that an attach can have.
func endpointName(v any) (string, error) { return named(v, 128) }

func named(v any, most int) (string, error) {
	s, err := line(v)
	if err != nil {
		return "", err
	}
	fit := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.", r)
	}
	bad := strings.IndexFunc(s, func(r rune) bool { return !fit(r) }) >= 0
	if bad || s == "" || len(s) > most || strings.ContainsRune("-_.", rune(s[0])) {
		return "", fmt.Errorf("%s is not a name; allowed: up to %d letters, digits, '-', '_' and '.', beginning with a letter or digit", quote(s), most)
	}
	return s, nil
}

// ports reads "30000-32767".
func ports(v any) (PortRange, error) {
	s, err := line(v)
	if err != nil {
		return PortRange{}, err
	}
	lo, hi, ok := strings.Cut(s, "-")
	first, err1 := strconv.ParseUint(lo, 10, 16)
	last, err2 := strconv.ParseUint(hi, 10, 16)
	if !ok || err1 != nil || err2 != nil || first == 0 || first > last {
		return PortRange{}, fmt.Errorf(`%s is not a range of ports; write the lowest and the highest, as in "30000-32767"`, quote(s))
	}
	return PortRange{uint16(first), uint16(last)}, nil
}

// hostPort reads an address and a port to listen on.
func hostPort(v any) (netip.AddrPort, error) {
	s, err := line(v)
	if err != nil {
		return netip.AddrPort{}, err
	}
	a, err := netip.ParseAddrPort(s)
	switch {
	case strings.HasPrefix(s, ":"):
		return a, fmt.Errorf(`%s has no address; did you mean %q?`, quote(s), "[::]"+s)
	case err != nil:
		return a, fmt.Errorf(`%s is not an address and port, such as "127.0.0.1:9478"`, quote(s))
	case a.Port() == 0:
		return netip.AddrPort{}, fmt.Errorf("%s has port 0; allowed: 1 to 65535", quote(s))
	}
	return a, nil
}

func level(v any) (slog.Level, error) {
	s, err := word("debug", "info", "warn", "error")(v)
	if err != nil {
		return 0, err
	}
	var l slog.Level
	return l, l.UnmarshalText([]byte(s))
}
