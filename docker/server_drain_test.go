package docker_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/docker"
)

// TestCallThatWasTakenIsAnswered: a server that ends answers whoever it let in, also one that has not said yet what he wants,
// and no one else. It ends when they are served.
func TestCallThatWasTakenIsAnswered(t *testing.T) {
	l := listenHeld(t, filepath.Join(t.TempDir(), "fairlead.sock"))
	path := l.Addr().String()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- docker.Refuse(ctx, l, "not here") }()

	taken, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	listenAsk(t, path, "first") // connections are taken in the order in which they come
	stop()
	if err := drainClosed(path); err != nil {
		t.Fatal(err)
	}
	_ = taken.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := fmt.Fprint(taken, "POST /late HTTP/1.1\r\nHost: plugin\r\nContent-Length: 0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(taken), nil)
	if err != nil {
		t.Fatalf("who was let in is not answered: %v", err)
	}
	defer answer.Body.Close()
	var said struct{ Err string }
	if err := json.NewDecoder(answer.Body).Decode(&said); err != nil || !strings.Contains(said.Err, "not here") {
		t.Errorf("%+v, %v", said, err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// drainClosed waits until nobody is let in any more.
func drainClosed(path string) error {
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		c, err := net.Dial("unix", path)
		if err != nil {
			return nil
		}
		_ = c.Close()
	}
	return fmt.Errorf("%s still lets in", path)
}
