package nettest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	answerTime = 40 * time.Second // beyond what the daemon takes before it gives up
	freshTime  = 30 * time.Second // a connection may rest; the daemon hangs up after a minute
)

// API asks a daemon over one connection to its socket, one thing at a time.
//
// It waits for the answer itself, without net/http's goroutines: what a client costs is not the daemon's.
type API struct {
	socket  string
	conn    net.Conn // nil before the first call
	answers *bufio.Reader
	used    time.Time
}

// NewAPI is a way through the socket; it goes with the test.
func NewAPI(t T, socket string) *API {
	a := &API{socket: socket}
	t.Cleanup(a.close)
	return a
}

// Call asks for a path below /v1/ and decodes the answer. A body of nil is none.
func (a *API) Call(method, path string, body, into any) error {
	var text bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&text).Encode(body); err != nil {
			return err
		}
	}
	req, err := http.NewRequest(method, "http://fairlead/v1/"+path, &text)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	status, answer, err := a.ask(req)
	if err != nil {
		a.close() // what is left of the answer belongs to no other question
		return err
	}
	if status/100 != 2 {
		return fmt.Errorf("%s %s: %d %s: %s", method, path, status, http.StatusText(status), answer)
	}
	return json.Unmarshal(answer, into)
}

func (a *API) ask(req *http.Request) (status int, answer []byte, err error) {
	if err := a.connect(); err != nil {
		return 0, nil, err
	}
	if err := req.Write(a.conn); err != nil {
		return 0, nil, err
	}
	res, err := http.ReadResponse(a.answers, req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	answer, err = io.ReadAll(res.Body)
	return res.StatusCode, answer, err
}

// connect makes sure that there is a connection that the daemon has not given up.
func (a *API) connect() error {
	now := time.Now()
	if a.conn != nil && now.Sub(a.used) > freshTime {
		a.close()
	}
	if a.conn == nil {
		conn, err := net.Dial("unix", a.socket)
		if err != nil {
			return err
		}
		a.conn, a.answers = conn, bufio.NewReader(conn)
	}
	a.used = now
	return a.conn.SetDeadline(now.Add(answerTime))
}

func (a *API) close() {
	if a.conn != nil {
		_ = a.conn.Close()
		a.conn = nil
	}
}

// Get asks the API for a path below /v1/ and decodes the answer. Many may ask at once.
func (n *Node) Get(path string, into any) error {
	a := API{socket: n.Socket()}
	defer a.close()
	return a.Call(http.MethodGet, path, nil, into)
}

// Client speaks HTTP to the daemon's socket, for requests that API would not send.
func (n *Node) Client() *http.Client {
	return &http.Client{Timeout: answerTime, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", n.Socket())
		},
	}}
}

// Metrics is what the daemon tells Prometheus.
func (n *Node) Metrics() (string, error) {
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (c net.Conn, err error) {
			err = n.Do(func() (err error) {
				c, err = new(net.Dialer).DialContext(ctx, network, address)
				return err
			})
			return c, err
		},
	}}
	res, err := client.Get("http://127.0.0.1:9478/metrics")
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return string(body), err
}

// Metric is the sum of a metric over all its labels.
func (n *Node) Metric(name string) float64 {
	n.lab.t.Helper()
	text, err := n.Metrics()
	if err != nil {
		n.lab.t.Fatalf("%s: read metrics: %v", n.Name, err)
	}
	sum := 0.0
	for line := range strings.Lines(text) {
		series, value, found := strings.Cut(strings.TrimSpace(line), " ")
		if !found || series != name && !strings.HasPrefix(series, name+"{") {
			continue
		}
		if i := strings.LastIndexByte(line, '}'); i >= 0 {
			value = strings.TrimSpace(line[i+1:]) // a label's value may hold a space
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			n.lab.t.Fatalf("%s: metric %s: %v", n.Name, line, err)
		}
		sum += v
	}
	return sum
}
