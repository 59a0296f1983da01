package nettest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// CallsConfig is what a host's config file ends with whose Fairlead is called by way of InterceptCalls.
const CallsConfig = "[docker]\nsocket = \"" + calledSocket + "\"\n"

// calledSocket is where Fairlead answers then; the file's name is still that of the driver.
const calledSocket = "/run/called/fairlead.sock"

// A Call is one of Docker's to Fairlead that is under way.
type Call struct {
	Method string // such as NetworkDriver.Join
	n      *Node
	body   []byte
	status int // of the answer, 0 while there is none
	header http.Header
	answer []byte
}

// InterceptCalls stands between the host's Docker and its Fairlead. Each call is given to handle, which has it answered by
// Serve; Docker gets the answer when handle says so, and otherwise sees the connection end, as when Fairlead dies.
func (n *Node) InterceptCalls(handle func(c *Call) (deliver bool)) {
	t := n.lab.t
	t.Helper()
	file := n.machine.path(driverSocket)
	err := os.MkdirAll(filepath.Dir(file), 0o700)
	if err != nil {
		t.Fatalf("%s: intercept Docker's calls: %v", n.Name, err)
	}
	l, err := net.Listen("unix", file)
	if err != nil {
		t.Fatalf("%s: intercept Docker's calls: %v", n.Name, err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		c := &Call{Method: strings.TrimPrefix(r.URL.Path, "/"), n: n, body: body}
		if err != nil || !handle(c) || c.status == 0 {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Content-Type", c.header.Get("Content-Type"))
		w.WriteHeader(c.status)
		_, _ = w.Write(c.answer) // Docker may have gone
	})}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(l) // until it is closed
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-ended
	})
}

// Serve has Fairlead answer the call, which waits for one to come as long as none runs. It is an error when Fairlead ends
// before it has answered.
func (c *Call) Serve() error {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return c.n.dialCalled(ctx)
	}}}
	ctx, cancel := context.WithTimeout(context.Background(), Patience(30*time.Second))
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+path.Join("fairlead", c.Method), bytes.NewReader(c.body))
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("call %s: %w", c.Method, err)
	}
	defer response.Body.Close()
	c.answer, err = io.ReadAll(response.Body)
	if err == nil {
		c.status, c.header = response.StatusCode, response.Header
	}
	return err
}

// dialCalled connects to Fairlead as soon as it listens.
func (n *Node) dialCalled(ctx context.Context) (net.Conn, error) {
	for {
		c, err := new(net.Dialer).DialContext(ctx, "unix", n.machine.path(calledSocket))
		if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, os.ErrNotExist) {
			return c, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(5 * time.Millisecond):
		}
	}
}
