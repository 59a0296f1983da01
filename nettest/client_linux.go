package nettest

import (
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

// Client speaks HTTP to the daemon's socket.
func (n *Node) Client() *http.Client {
	return &http.Client{Timeout: 40 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", n.Socket())
		},
	}}
}

// Get asks the API for a path below /v1/ and decodes the answer.
func (n *Node) Get(path string, into any) error {
	res, err := n.Client().Get("http://fairlead/v1/" + path)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("get %s: %s: %s", path, res.Status, body)
	}
	return json.Unmarshal(body, into)
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
