package cli_test

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/cli"
)

// said runs a command line where no daemon is.
func said(args ...string) (code int, stdout, stderr string) {
	var out, err bytes.Buffer
	code = cli.Execute(context.Background(), program(), append(args, "--socket", "/nowhere/s"), &out, &err)
	return code, out.String(), err.String()
}

// TestBadSpecs: what can not be meant is found before the daemon is asked, whichever command it was given to.
func TestBadSpecs(t *testing.T) {
	const want = ": want [hostIP:][hostPort:]port[/proto], for instance 8080:80/tcp"
	for spec, says := range map[string]string{
		"http":                `port "http" is not a number from 1 to 65535` + want,
		"0":                   `port "0" is not a number from 1 to 65535` + want,
		"80/":                 `protocol "" is none of tcp, udp, sctp` + want,
		"80/TCP":              `protocol "TCP" is none of tcp, udp, sctp` + want,
		"80/icmp":             `protocol "icmp" is none of tcp, udp, sctp` + want,
		"65536:80":            `host port "65536" is not a number from 1 to 65535` + want,
		"8080:":               `port "" is not a number from 1 to 65535` + want,
		"web:8080:80":         `host address "web" is not an IP address` + want,
		"2001:db8::1:8080:80": `too many colons: an IPv6 address goes in brackets` + want,
		"[2001:db8::1]8080":   `'[' without ']:'` + want,
		"[fe80::1%eth0]::80":  `host address "fe80::1%eth0" can not be a host's own` + want,
		"224.0.0.1::80":       `host address "224.0.0.1" can not be a host's own` + want,
		"8000-8002:80-81":     `3 host ports for 2 ports` + want,
		"9-8":                 `"9-8" is not a range of 1 to 1024 ports` + want,
		"1-2000":              `"1-2000" is not a range of 1 to 1024 ports` + want,
		"80,443":              `port "80,443" is not a number from 1 to 65535` + want,
		"80\x1b[31m":          `is not a number from 1 to 65535` + want,
	} {
		for command, args := range map[string][]string{
			"attach":    {"attach", "web", "--publish", "443", "--publish", spec},
			"publish":   {"publish", "web", "443", spec},
			"unpublish": {"unpublish", "web", "443", spec},
			"reserve":   {"reserve", "web", "443", spec},
		} {
			code, stdout, stderr := said(args...)
			if code != 2 || stdout != "" || !strings.Contains(stderr, says) || strings.ContainsRune(stderr, '\x1b') ||
				!strings.Contains(stderr, "bad port mapping ") || !strings.HasSuffix(stderr, "\nsee 'fairlead "+command+" --help'\n") {
				t.Errorf("%s %q: exit code %d, %q, %q", command, spec, code, stdout, stderr)
			}
		}
	}
}

// TestGoodSpecs go on to the daemon, which is not there.
func TestGoodSpecs(t *testing.T) {
	for _, spec := range []string{"80", ":80", "53/udp", "5000/sctp", "8080:80", "192.0.2.1:8080:80/tcp", "192.0.2.1::80", "[2001:db8::1]::80", "8000-8010:80", "80-90"} {
		for _, args := range [][]string{
			{"attach", "web", "--publish", spec}, {"publish", "web", spec}, {"unpublish", "web", spec}, {"reserve", "web", spec},
		} {
			if code, stdout, stderr := said(args...); code != 1 || stdout != "" || !strings.Contains(stderr, "cannot reach fairlead at /nowhere/s") {
				t.Errorf("%q: exit code %d, %q, %q", args, code, stdout, stderr)
			}
		}
	}
}
