package docker_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// replayEngine is what an engine sent to a driver, recorded with "want", what it must be answered.
//
// {gateway1}, {address1}, {mac1} and {link1} stand for what the driver chooses: the answer that has one for the first time
// decides. Text between dots is a part of an error.
type replayEngine struct {
	Engine string
	Steps  []replayStep
}

type replayStep struct {
	Does    string // what the user did; the steps that follow without it belong to the same
	Call    string
	Request json.RawMessage
	Want    json.RawMessage
}

func replayEngines(t testing.TB) (all []replayEngine) {
	t.Helper()
	files, err := filepath.Glob("testdata/replay-*.json")
	if err != nil || len(files) < 4 {
		t.Fatalf("recordings: %v, %v", files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		var e replayEngine
		if err == nil {
			err = json.Unmarshal(text, &e)
		}
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all = append(all, e)
	}
	return all
}

// replayChosen is what the driver has chosen, by the words in braces.
type replayChosen map[string]string

func replayWord() *regexp.Regexp { return regexp.MustCompile(`\{[a-z]+[0-9]+\}`) }

// fill puts what was chosen into a request.
func (c replayChosen) fill(t testing.TB, request json.RawMessage) []byte {
	t.Helper()
	return replayWord().ReplaceAllFunc(request, func(word []byte) []byte {
		value, chosen := c[string(word)]
		if !chosen {
			t.Fatalf("%s is sent before it was chosen: %s", word, request)
		}
		return []byte(value)
	})
}

// match holds an answer against what is wanted.
func (c replayChosen) match(want, got any) error {
	switch want := want.(type) {
	case map[string]any:
		got, same := got.(map[string]any)
		if !same || !slices.Equal(slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(got))) {
			return fmt.Errorf("%v, want %v", got, want)
		}
		for k, v := range want {
			if err := c.match(v, got[k]); err != nil {
				return fmt.Errorf("%s: %w", k, err)
			}
		}
		return nil
	case []any:
		got, same := got.([]any)
		if !same || len(got) != len(want) {
			return fmt.Errorf("%v, want %v", got, want)
		}
		for i, v := range want {
			if err := c.match(v, got[i]); err != nil {
				return fmt.Errorf("%d: %w", i, err)
			}
		}
		return nil
	case string:
		if got, same := got.(string); same {
			return c.matchText(want, got)
		}
	}
	if want != got {
		return fmt.Errorf("%v, want %v", got, want)
	}
	return nil
}

func (c replayChosen) matchText(want, got string) error {
	if part, partly := strings.CutPrefix(want, "..."); partly {
		if part = strings.TrimSuffix(part, "..."); !strings.Contains(got, part) {
			return fmt.Errorf("%q does not say %q", got, part)
		}
		return nil
	}
	word := replayWord().FindString(want)
	tail := strings.TrimPrefix(want, word)
	if _, chosen := c[word]; word != "" && !chosen {
		value, fits := strings.CutSuffix(got, tail)
		if !fits {
			return fmt.Errorf("%q, want %q", got, want)
		}
		if err := replayMay(word, value); err != nil {
			return err
		}
		c[word] = value
	}
	if got != c[word]+tail {
		return fmt.Errorf("%q, want %q, %s is %q", got, want, word, c[word])
	}
	return nil
}

// replayMay tells whether the driver may choose a value.
func replayMay(word, value string) error {
	address, _ := netip.ParseAddr(value)
	may := false
	switch word = strings.Trim(word, "{}0123456789"); word {
	case "gateway":
		may = address.IsLinkLocalUnicast()
	case "address":
		for _, p := range newDriverHost().pools {
			may = may || p.Block.Contains(address)
		}
	case "mac":
		mac, err := net.ParseMAC(value)
		may = err == nil && len(mac) == 6 && mac[0]&3 == 2
	case "link":
		may = len(value) > 0 && len(value) < 16
	}
	if !may {
		return fmt.Errorf("%q can be no %s", value, word)
	}
	return nil
}

// replayPorts are the ports that are open when something was done, until something else changes them.
func replayPorts(does string) (ports string, known bool) {
	const c2 = "127.0.0.1:8082:82/udp 8080:80/tcp 8084:84/tcp 81/tcp 85/tcp 9000:90/tcp 9001:91/tcp 9002:92/tcp 9100-9110:93/tcp"
	for begin, ports := range map[string]string{
		"docker network create":      "",
		"docker run --network v4 -p": c2,
		"docker run --network dual":  c2 + " 8090:80/tcp [::]:8091:81/tcp",
		"docker network disconnect":  c2 + " 8090:80/tcp 8092:80/tcp [::]:8091:81/tcp",
		"docker restart c2":          c2 + " 8090:80/tcp 8092:80/tcp [::]:8091:81/tcp",
		"docker stop d1":             c2 + " 8092:80/tcp",
		"docker start d1":            c2 + " 8090:80/tcp 8092:80/tcp [::]:8091:81/tcp",
		"dockerd restarts":           c2 + " 8090:80/tcp 8092:80/tcp [::]:8091:81/tcp",
		"dockerd is killed":          "",
		"docker network rm":          "",
	} {
		if strings.HasPrefix(does, begin) {
			return ports, true
		}
	}
	return "", false
}

func TestReplayOfEngines(t *testing.T) {
	for _, e := range replayEngines(t) {
		t.Run(e.Engine, func(t *testing.T) {
			h := newDriverHost()
			s := serveDriver(t, h, 5*time.Second)
			chosen, six := replayChosen{}, false
			for i, step := range e.Steps {
				var want, got any
				if err := json.Unmarshal(step.Want, &want); err != nil {
					t.Fatal(err)
				}
				status, answer := s.post(t, step.Call, chosen.fill(t, step.Request))
				err := json.Unmarshal(answer, &got)
				if err == nil {
					err = chosen.match(want, got)
				}
				if err == nil {
					err = h.trouble()
				}
				if err != nil || status != 200 {
					t.Fatalf("step %d, %s: %d %s: %v\n%s", i+1, step.Call, status, answer, err, h)
				}
				six = six || strings.Contains(step.Does, "--network six")
				if i+1 == len(e.Steps) || e.Steps[i+1].Does != "" {
					checkReplayPorts(t, e.Steps[:i+1], h, six)
				}
			}
			if text := h.String(); text != "nothing\n" {
				t.Errorf("left behind:\n%s", text)
			}
		})
	}
}

// checkReplayPorts compares after the last step of what the user did. Not every engine has networks of IPv6 alone.
func checkReplayPorts(t *testing.T, steps []replayStep, h *driverHost, six bool) {
	t.Helper()
	i := len(steps) - 1
	for steps[i].Does == "" {
		i--
	}
	want, known := replayPorts(steps[i].Does)
	if !six {
		want = strings.ReplaceAll(want, " 8092:80/tcp", "")
	}
	fields := strings.Fields(want)
	slices.Sort(fields)
	want = strings.Join(fields, " ")
	if got := h.published(); known && got != want {
		t.Errorf("after %s: ports %q, want %q", steps[i].Does, got, want)
	}
}
