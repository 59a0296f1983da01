package docker_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"
)

// hostileAnswered is what one and the same request was answered, sent several times.
type hostileAnswered struct {
	status int
	answer []byte
	err    error
}

// hostileDuplicates replays a recording and sends each request as often as send does.
func hostileDuplicates(t *testing.T, e replayEngine, send func(s *driverServer, call string, body []byte) []hostileAnswered) {
	t.Helper()
	h := newDriverHost()
	s := serveDriver(t, h, 5*time.Second)
	chosen := replayChosen{}
	for i, step := range e.Steps {
		body := chosen.fill(t, step.Request)
		all := send(s, step.Call, body)
		var want, got any
		err := errors.Join(json.Unmarshal(step.Want, &want), json.Unmarshal(all[0].answer, &got))
		if err == nil {
			err = chosen.match(want, got)
		}
		anew := step.Call == "IpamDriver.RequestAddress" && strings.Contains(string(body), `"Address": ""`)
		for _, a := range all {
			err = errors.Join(err, a.err)
			if same := bytes.Equal(a.answer, all[0].answer); !anew && !same {
				err = errors.Join(err, fmt.Errorf("answered %s, and %s", all[0].answer, a.answer))
			}
		}
		if err = errors.Join(err, h.trouble()); err != nil {
			t.Fatalf("step %d, %s of %s: %v\n%s", i+1, step.Call, body, err, h)
		}
		if anew {
			returnOthers(t, s, body, all)
		}
	}
	if text := h.String(); text != "nothing\n" {
		t.Errorf("left behind:\n%s", text)
	}
}

// returnOthers gives all addresses but the first back: whoever asks twice for any address gets two.
func returnOthers(t *testing.T, s *driverServer, body []byte, all []hostileAnswered) {
	t.Helper()
	seen := map[string]bool{}
	for i, a := range all {
		var got struct{ Address string }
		var sent struct{ PoolID string }
		if err := errors.Join(json.Unmarshal(a.answer, &got), json.Unmarshal(body, &sent)); err != nil || got.Address == "" || seen[got.Address] {
			t.Fatalf("%s: %s of %s: %v", body, a.answer, all[0].answer, err)
		}
		seen[got.Address] = true
		if address, _, _ := strings.Cut(got.Address, "/"); i > 0 {
			s.post(t, "IpamDriver.ReleaseAddress", fmt.Appendf(nil, `{"PoolID":%q,"Address":%q}`, sent.PoolID, address))
		}
	}
}

func TestHostileDuplicatesInSequence(t *testing.T) {
	for _, e := range oldAndNew(t) {
		t.Run(e.Engine, func(t *testing.T) {
			hostileDuplicates(t, e, func(s *driverServer, call string, body []byte) (all []hostileAnswered) {
				for range 2 {
					status, answer, err := s.try(call, body)
					all = append(all, hostileAnswered{status, answer, err})
				}
				return all
			})
		})
	}
}

func TestHostileDuplicatesAtOnce(t *testing.T) {
	for _, e := range oldAndNew(t) {
		t.Run(e.Engine, func(t *testing.T) {
			hostileDuplicates(t, e, func(s *driverServer, call string, body []byte) []hostileAnswered {
				all := make([]hostileAnswered, 3)
				var each sync.WaitGroup
				for i := range all {
					each.Go(func() {
						status, answer, err := s.try(call, body)
						all[i] = hostileAnswered{status, answer, err}
					})
				}
				each.Wait()
				return all
			})
		})
	}
}

// The requests of a recording, in any order: whatever becomes of them, nobody gets what another has.
func TestHostileOrder(t *testing.T) {
	for _, e := range oldAndNew(t) {
		calls := hostileRecorded(t, e)
		for seed := range uint64(3) {
			h := newDriverHost()
			s := serveDriver(t, h, 5*time.Second)
			order := rand.New(rand.NewPCG(seed, seed)).Perm(len(calls))
			if seed == 0 { // from the end to the beginning
				for i := range order {
					order[i] = len(calls) - 1 - i
				}
			}
			for _, i := range order {
				status, answer := s.post(t, calls[i].path, calls[i].body)
				if err := h.trouble(); err != nil || status != 200 || !json.Valid(answer) {
					t.Fatalf("engine %s, seed %d, step %d: %s: %d %s: %v\n%s", e.Engine, seed, i, calls[i].path, status, answer, err, h)
				}
			}
		}
	}
}

// hostileRecorded are the requests of a recording with what a driver chooses when they come in their order.
func hostileRecorded(t testing.TB, e replayEngine) (calls []hostileCall) {
	t.Helper()
	s := serveDriver(t, newDriverHost(), 5*time.Second)
	chosen := replayChosen{}
	for _, step := range e.Steps {
		body := chosen.fill(t, step.Request)
		calls = append(calls, hostileCall{step.Call, body})
		_, answer := s.post(t, step.Call, body)
		var want, got any
		err := errors.Join(json.Unmarshal(step.Want, &want), json.Unmarshal(answer, &got))
		if err == nil {
			err = chosen.match(want, got)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return calls
}

func TestHostileIDs(t *testing.T) {
	stage := hostileHost(t, replayEngines(t)[0], 5*time.Second)
	other := strings.Repeat("0123456789abcdef", 4)
	for _, c := range stage.calls {
		for _, field := range []string{"NetworkID", "EndpointID"} {
			var q map[string]any
			if err := json.Unmarshal(c.body, &q); err != nil {
				t.Fatal(err)
			}
			if q[field] == nil || c.path == "NetworkDriver.DeleteNetwork" && field == "EndpointID" {
				continue
			}
			for _, id := range []string{"", "a", "../../../../etc/passwd", other + "/", other + "\n", strings.Repeat("a", 129), "ａａａａａａａａａａａａａａａａ"} {
				q[field] = id
				body, _ := json.Marshal(q)
				stage.refuse(t, fmt.Sprintf("%.20q as %s", id, field), hostileCall{c.path, body}, 400)
			}
			q[field] = other
			body, _ := json.Marshal(q)
			switch c.path[len("NetworkDriver."):] {
			case "CreateEndpoint", "Join", "ProgramExternalConnectivity":
				stage.refuse(t, "unknown "+field, hostileCall{c.path, body}, 200)
			case "CreateNetwork": // is how an ID becomes known, with a gateway that none has
				stage.refuse(t, "second network", hostileCall{c.path, body}, 200)
			default:
				if field == "EndpointID" || c.path == "NetworkDriver.DeleteNetwork" {
					stage.ignore(t, "unknown "+field, hostileCall{c.path, body})
				}
			}
		}
	}
}

// ignore sends what is no error, since what it is to end is not there, and wants it to leave everything as it is.
func (s hostileStage) ignore(t *testing.T, what string, c hostileCall) {
	t.Helper()
	before := s.host.String()
	status, answer := s.server.post(t, c.path, c.body)
	if status != 200 || hostileRefused(status, answer) {
		t.Errorf("%s of %s: %d %s", what, c.path, status, answer)
	}
	if after := s.host.String(); after != before {
		t.Fatalf("%s of %s has changed\n%sinto\n%s", what, c.path, before, after)
	}
}
