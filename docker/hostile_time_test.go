package docker_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// hostileRequest is a call as it goes over the wire.
func hostileRequest(call, body string) string {
	return fmt.Sprintf("POST /%s HTTP/1.1\r\nHost: plugin\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", call, len(body), body)
}

// Clients that never finish are given up, and nobody waits for them meanwhile.
func TestHostileSlowClients(t *testing.T) {
	const timeout = 400 * time.Millisecond
	s := serveDriver(t, newDriverHost(), timeout)
	body := hostileRequest("IpamDriver.RequestPool", strings.Repeat(" ", 5000)+"{}")
	head, _, _ := strings.Cut(body, "\r\n\r\n")
	var slow sync.WaitGroup
	for what, text := range map[string]string{"no byte": "", "a slow head": head, "a slow body": body} {
		c := s.dial(t)
		began := time.Now()
		slow.Go(func() { // writes a byte now and then, until nobody listens
			at := 0
			if what == "a slow body" {
				at = len(head) + 4
			}
			if _, err := io.WriteString(c, text[:at]); err != nil {
				t.Errorf("%s: %v", what, err)
			}
			for ; at < len(text); at++ {
				if _, err := io.WriteString(c, text[at:at+1]); err != nil {
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
		})
		slow.Go(func() {
			answer, err := io.ReadAll(c)
			took := time.Since(began)
			_ = c.Close()
			if timed := strings.HasPrefix(string(answer), "HTTP/1.1 408 ") && strings.Contains(string(answer), `{"Err":"malformed request: read body: `); err == nil && timed != (what == "a slow body") {
				t.Errorf("%s: answered %q", what, answer)
			}
			if took < timeout/2 || took > 20*timeout {
				t.Errorf("%s: given up after %s: %v", what, took, err)
			}
		})
	}
	for range 20 {
		began := time.Now()
		if status, answer := s.post(t, "Plugin.Activate", nil); status != 200 || time.Since(began) > 10*timeout {
			t.Errorf("others wait %s for %d %s", time.Since(began), status, answer)
		}
	}
	slow.Wait()
}

// A connection between two calls stays open for as long as the engine likes.
func TestHostileIdleConnection(t *testing.T) {
	const timeout = 100 * time.Millisecond
	c := serveDriver(t, newDriverHost(), timeout).dial(t)
	read := bufio.NewReader(c)
	for i := range 2 {
		if i > 0 {
			time.Sleep(6 * timeout)
		}
		if _, err := io.WriteString(c, hostileRequest("Plugin.Activate", "")); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(read, nil)
		if err != nil {
			t.Fatalf("call %d: %v", i+1, err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != 200 {
			t.Errorf("call %d: %d, %v", i+1, resp.StatusCode, err)
		}
		_ = resp.Body.Close()
	}
}

// A host that hangs costs a call the time that the config allows, and no other call anything.
func TestHostileHungHost(t *testing.T) {
	const timeout = 150 * time.Millisecond
	stage := hostileHost(t, oldAndNew(t)[1], timeout)
	before := stage.host.String()
	stage.host.interrupt(func(ctx context.Context, method string) error {
		if method == "Pools" || method == "Networks" {
			return nil // they read what is in memory
		}
		<-ctx.Done()
		return ctx.Err()
	})
	waits := 0
	var calls sync.WaitGroup
	for _, c := range stage.calls {
		waiting := !strings.Contains("NetworkDriver.GwAllocCheck NetworkDriver.EndpointOperInfo NetworkDriver.DiscoverNew IpamDriver.RequestPool IpamDriver.ReleasePool", c.path)
		if waiting {
			waits++
		}
		calls.Go(func() {
			began := time.Now()
			status, answer, err := stage.server.try(c.path, c.body)
			if took := time.Since(began); took > 40*timeout {
				t.Errorf("%s: it took %s", c.path, took)
			}
			told := strings.Contains(string(answer), "waited 150ms ([docker] timeout) for ")
			if err != nil || status != 200 || told != waiting || hostileRefused(status, answer) != waiting {
				t.Errorf("%s: %d %s: %v", c.path, status, answer, err)
			}
		})
	}
	calls.Wait()
	if waits < 9 {
		t.Errorf("only %d calls wait for the host", waits)
	}
	stage.host.interrupt(nil)
	if after := stage.host.String(); after != before {
		t.Errorf("changed into\n%s", after)
	}
}

// What the host refuses is told where the role's half of an engine looks for it.
func TestHostileErrors(t *testing.T) {
	stage := hostileHost(t, oldAndNew(t)[1], 5*time.Second)
	stage.host.interrupt(func(_ context.Context, method string) error {
		if method == "Pools" {
			return nil
		}
		return errDriverDown
	})
	failed := 0
	for _, c := range stage.calls {
		status, answer := stage.server.post(t, c.path, c.body)
		var said map[string]string
		if json.Unmarshal(answer, &said) != nil || !hostileRefused(status, answer) {
			continue
		}
		field := map[bool]string{true: "Error", false: "Err"}[strings.HasPrefix(c.path, "IpamDriver.")]
		if failed++; status != 200 || len(said) != 1 || !strings.Contains(said[field], errDriverDown.Error()) {
			t.Errorf("%s: %d %s", c.path, status, answer)
		}
	}
	if failed < 9 {
		t.Errorf("only %d calls failed", failed)
	}
	stage.host.interrupt(nil)
	if err := stage.host.trouble(); err != nil {
		t.Error(err)
	}
}

// A call that panics fails alone.
func TestHostilePanic(t *testing.T) {
	stage := hostileHost(t, oldAndNew(t)[1], 5*time.Second)
	before := stage.host.String()
	stage.host.interrupt(func(_ context.Context, method string) error { panic("in " + method) })
	panics := 0
	for _, c := range stage.calls {
		if status, answer := stage.server.post(t, c.path, c.body); status == 500 && hostileRefused(status, answer) {
			panics++
		}
	}
	stage.host.interrupt(nil)
	if panics < 10 {
		t.Errorf("%d calls panicked", panics)
	}
	if text := stage.server.log.String(); strings.Count(text, "level=ERROR") != panics || !strings.Contains(text, "panic=\"in Admit\"") {
		t.Errorf("%d panics are told as\n%.2000s", panics, text)
	}
	if status, answer := stage.server.post(t, "Plugin.Activate", nil); status != 200 {
		t.Errorf("afterwards: %d %s", status, answer)
	}
	if after := stage.host.String(); after != before {
		t.Errorf("changed into\n%s", after)
	}
}

// A daemon that stops answers what it has begun: a call that breaks off comes again without its body.
func TestHostileShutdown(t *testing.T) {
	stage := hostileHost(t, oldAndNew(t)[1], 5*time.Second)
	begun, release := make(chan string, len(stage.calls)), make(chan struct{})
	stage.host.interrupt(func(ctx context.Context, method string) error {
		if method == "Guests" {
			begun <- method
			<-release
		}
		return ctx.Err()
	})
	var calls sync.WaitGroup
	held := 0
	for _, c := range stage.calls {
		if c.path != "NetworkDriver.Join" && c.path != "NetworkDriver.ProgramExternalConnectivity" {
			continue
		}
		held++
		calls.Go(func() {
			status, answer, err := stage.server.try(c.path, c.body)
			if err != nil || status != 200 || hostileRefused(status, answer) {
				t.Errorf("%s: %d %s: %v", c.path, status, answer, err)
			}
		})
	}
	for range held {
		<-begun
	}
	stage.server.stop()
	for deadline := time.Now().Add(5 * time.Second); stage.server.listens(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Error("it still listens after it was told to stop")
			break
		}
	}
	select {
	case err := <-stage.server.ended:
		t.Errorf("ended while %d calls are under way: %v", held, err)
	default:
	}
	close(release)
	calls.Wait()
	if err := stage.server.wait(); err != nil {
		t.Error(err)
	}
}
