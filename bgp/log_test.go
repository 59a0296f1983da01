package bgp

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"

	gobgplog "github.com/osrg/gobgp/v3/pkg/log"
)

// TestSocketFailuresAreUnderstood has the lines that no test can make the real GoBGP say: it logs these failures as
// warnings and goes on without the password or the TTL.
func TestSocketFailuresAreUnderstood(t *testing.T) {
	cases := []struct {
		msg    string
		fields gobgplog.Fields
		want   string // kind and text, "" for nothing
	}{
		{"failed to set md5", gobgplog.Fields{"Err": os.ErrPermission}, "4 failed to set md5: permission denied"},
		{"cannot set TTL for peer", gobgplog.Fields{"Error": os.ErrPermission}, "4 cannot set TTL for peer: permission denied"},
		{"failed to send", gobgplog.Fields{"Data": &net.OpError{Op: "write", Err: os.ErrDeadlineExceeded}}, "1 the peer took nothing for the hold time"},
		{"failed to send", gobgplog.Fields{"Data": errors.New("broken pipe")}, ""},
		{"prefix limit reached", gobgplog.Fields{"Family": "ipv4-unicast", "Pct": 80}, ""},
		{"sent notification", gobgplog.Fields{"Code": uint8(4), "Subcode": uint8(0)}, ""},
		{"sent notification", gobgplog.Fields{}, "2 sent notification: unknown"},
		{"failed to connect", gobgplog.Fields{}, "3 connect: unknown"},
		{"failed to connect", gobgplog.Fields{"Error": errors.New("odd")}, "3 connect: odd"},
		{"Add a peer configuration", gobgplog.Fields{}, ""},
	}
	for _, c := range cases {
		c.fields["Key"] = "192.0.2.1"
		got := ""
		if n, ok := understand(c.msg, c.fields); ok {
			got = fmt.Sprint(int(n.kind), " ", n.text)
		}
		if got != c.want {
			t.Errorf("%s %v: %q, want %q", c.msg, c.fields, got, c.want)
		}
	}
	if _, ok := understand("state changed", gobgplog.Fields{"Key": "no address"}); ok {
		t.Error("understood of no peer")
	}
}

// TestImpossibleStateDoesNotEndTheProcess: the logger that GoBGP has by itself exits on Fatal and panics on Panic.
func TestImpossibleStateDoesNotEndTheProcess(t *testing.T) {
	var text strings.Builder
	l := &logger{log: slog.New(slog.NewTextHandler(&text, nil)), notes: newQueue[note]()}
	l.Fatal("unknown msg type", gobgplog.Fields{"Key": "192.0.2.1"})
	l.Panic("code logic bug", gobgplog.Fields{})
	l.Warn("hold timer expired", gobgplog.Fields{"Key": "192.0.2.1"})
	if got := text.String(); strings.Count(got, "level=ERROR") != 2 || strings.Contains(got, "hold timer") {
		t.Errorf("logged:\n%s", got)
	}
	if got := l.notes.take(); len(got) != 1 || got[0].kind != noteDead {
		t.Errorf("noted %v", got)
	}
}
