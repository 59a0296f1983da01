package bgp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"time"

	gobgplog "github.com/osrg/gobgp/v3/pkg/log"
	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
)

// noteKind is what a note is about.
type noteKind int

const (
	noteState   noteKind = iota // the session went from one state to another
	noteDead                    // the peer was silent for the hold time
	noteRefused                 // a notification went out or came in, or a message was not understood
	noteDial                    // no connection
	noteSocket                  // a socket option that the session needs was not set
	noteLimit                   // more prefixes than allowed
)

// note is something that GoBGP says of a session in its log and nowhere else: its API has no reasons.
type note struct {
	kind     noteKind
	peer     netip.Addr
	when     time.Time
	from, to string // noteState: RFC 4271's words, lower case
	text     string
}

// logger turns GoBGP's log into notes, and passes it on at debug level.
//
// Nothing of it may wait or take a lock of the Speaker: GoBGP calls it from its one loop, often with locks of its own.
type logger struct {
	log   *slog.Logger
	notes *queue[note]
	// eager makes GoBGP say why a connection failed, which it does at debug level only. It costs a line for each path
	// and peer, so it is on only while a session is down.
	eager atomic.Bool
}

func (l *logger) hear(msg string, f gobgplog.Fields) {
	if n, ok := understand(msg, f); ok {
		n.when = time.Now()
		l.notes.put(n)
	}
	if !l.log.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	attrs := make([]slog.Attr, 0, len(f))
	for k, v := range f {
		attrs = append(attrs, slog.String(strings.ToLower(k), fmt.Sprint(v)))
	}
	l.log.LogAttrs(context.Background(), slog.LevelDebug, "gobgp: "+msg, attrs...)
}

// Panic and Fatal report what GoBGP holds to be impossible. It goes on after them, as it does in its own tests: the
// session at fault ends by its timers, and the others must not end with it.
func (l *logger) Panic(msg string, f gobgplog.Fields) { l.broken(msg, f) }
func (l *logger) Fatal(msg string, f gobgplog.Fields) { l.broken(msg, f) }

func (l *logger) broken(msg string, f gobgplog.Fields) {
	l.log.Error("gobgp met an impossible state", "what", msg, "peer", f["Key"], "state", f["State"])
}

func (l *logger) Error(msg string, f gobgplog.Fields) { l.hear(msg, f) }
func (l *logger) Warn(msg string, f gobgplog.Fields)  { l.hear(msg, f) }
func (l *logger) Info(msg string, f gobgplog.Fields)  { l.hear(msg, f) }
func (l *logger) Debug(msg string, f gobgplog.Fields) { l.hear(msg, f) }

// SetLevel does nothing: the level is slog's affair.
func (l *logger) SetLevel(gobgplog.LogLevel) {}

func (l *logger) GetLevel() gobgplog.LogLevel {
	if l.eager.Load() || l.log.Enabled(context.Background(), slog.LevelDebug) {
		return gobgplog.DebugLevel
	}
	return gobgplog.InfoLevel
}

// understand picks the lines of GoBGP v3.37's log that matter to us. Each is held by a test against the real one.
func understand(msg string, f gobgplog.Fields) (note, bool) {
	key, _ := f["Key"].(string)
	peer, err := netip.ParseAddr(key)
	if err != nil {
		return note{}, false
	}
	n := note{peer: peer}
	switch msg {
	case "state changed":
		n.kind, n.from, n.to, n.text = noteState, stateWord(f["old"]), stateWord(f["new"]), fmt.Sprint(f["reason"])
	case "hold timer expired":
		n.kind, n.text = noteDead, "hold timer expired"
	case "failed to send":
		failure, _ := f["Data"].(error)
		if !errors.Is(failure, os.ErrDeadlineExceeded) {
			return note{}, false
		}
		n.kind, n.text = noteDead, "the peer took nothing for the hold time"
	case "sent notification", "received notification":
		if code, _ := f["Code"].(uint8); code == bgp.BGP_ERROR_HOLD_TIMER_EXPIRED && msg == "sent notification" {
			return note{}, false // told already
		}
		n.kind, n.text = noteRefused, msg+": "+notification(f)
	case "Session will be reset due to malformed BGP Header", "Session will be reset due to malformed BGP message",
		"Session will be reset due to malformed BGP update message":
		n.kind, n.text = noteRefused, fmt.Sprintf("malformed message: %v", cmp.Or(f["Error"], f["error"]))
	case "failed to connect":
		failure, _ := f["Error"].(error)
		n.kind, n.text = noteDial, "connect: "+dialFailure(failure)
	case "failed to set md5", "failed to unset md5", "cannot set TTL for peer":
		n.kind, n.text = noteSocket, fmt.Sprintf("%s: %v", msg, cmp.Or(f["Err"], f["Error"]))
	case "prefix limit reached":
		// With Pct it is the early warning.
		if _, early := f["Pct"]; early {
			return note{}, false
		}
		n.kind, n.text = noteLimit, fmt.Sprint(f["Family"])
	default:
		return note{}, false
	}
	return n, true
}

// stateWord makes "established" of "BGP_FSM_ESTABLISHED".
func stateWord(v any) string {
	return strings.ToLower(strings.TrimPrefix(fmt.Sprint(v), "BGP_FSM_"))
}

func notification(f gobgplog.Fields) string {
	if e, ok := f["Data"].(*bgp.MessageError); ok {
		return e.Error()
	}
	code, ok1 := f["Code"].(uint8)
	subcode, ok2 := f["Subcode"].(uint8)
	if !ok1 || !ok2 {
		return "unknown"
	}
	return bgp.NewNotificationErrorCode(code, subcode).String()
}

func dialFailure(err error) string {
	var op *net.OpError
	var sys *os.SyscallError
	switch {
	case err == nil:
		return "unknown"
	case errors.As(err, &sys):
		return sys.Err.Error()
	case errors.As(err, &op) && op.Timeout():
		return "no answer"
	case errors.As(err, &op):
		return op.Err.Error()
	}
	return err.Error()
}
