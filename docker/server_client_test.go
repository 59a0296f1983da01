package docker_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/docker"
)

// driverServer is the driver on a socket of its own.
type driverServer struct {
	socket string
	client http.Client
	stop   context.CancelFunc
	ended  chan error // has what Serve returned
	log    *driverLog
}

// serveDriver serves until the test ends.
func serveDriver(t testing.TB, h *driverHost, timeout time.Duration) *driverServer {
	t.Helper()
	dir, err := os.MkdirTemp("", "fairlead-") // a socket's path has room for some hundred bytes
	if err != nil {
		t.Fatal(err)
	}
	s := &driverServer{socket: filepath.Join(dir, "fairlead.sock"), ended: make(chan error, 1), log: &driverLog{}}
	l, err := net.Listen("unix", s.socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	d := docker.New(h.host(), timeout, slog.New(slog.NewTextHandler(s.log, nil)))
	go func() { s.ended <- d.Serve(ctx, l) }()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", s.socket)
	}}
	s.client = http.Client{Transport: transport, Timeout: 30 * time.Second}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		stop()
		if err := <-s.ended; err != nil {
			t.Error(err)
		}
		s.ended <- nil
		_ = os.RemoveAll(dir)
	})
	return s
}

// wait returns when the server has ended, with what it ended with.
func (s *driverServer) wait() error {
	err := <-s.ended
	s.ended <- nil // for the clean-up
	return err
}

// post sends a call as engines do.
func (s *driverServer) post(t testing.TB, call string, body []byte) (status int, answer []byte) {
	t.Helper()
	status, answer, err := s.try(call, body)
	if err != nil {
		t.Fatalf("%s: %v", call, err)
	}
	return status, answer
}

// try is post for other goroutines than the test's own.
func (s *driverServer) try(call string, body []byte) (status int, answer []byte, err error) {
	resp, err := s.client.Post("http://plugin/"+call, "application/vnd.docker.plugins.v1.2+json", bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(resp.Body)
	return resp.StatusCode, answer, err
}

// listens tells whether somebody takes connections.
func (s *driverServer) listens() bool {
	c, err := net.Dial("unix", s.socket)
	if err == nil {
		_ = c.Close()
	}
	return err == nil
}

// dial opens a connection for what no client of HTTP would send.
func (s *driverServer) dial(t testing.TB) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", s.socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

// ask sends a call by another method than POST.
func (s *driverServer) ask(t testing.TB, method, call string, body []byte) (status int, allowed string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://plugin/"+call, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode, resp.Header.Get("Allow")
}
