package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/fairlead-net/fairlead/agent"
)

// How long a command waits for its answer, unless --timeout says otherwise.
const (
	readTimeout   = 10 * time.Second
	attachTimeout = 30 * time.Second // a first container may load kernel modules
	reloadTimeout = 60 * time.Second // until the pass that applies it is clean
	tabTimeout    = time.Second      // nobody waits longer after pressing Tab
)

// maxAnswer bounds what is read of an answer, in bytes: a full table of routes or leases is far below it.
const maxAnswer = 32 << 20

// defaultSocket is where a daemon listens that was told nothing else.
const defaultSocket = "/run/fairlead/fairlead.sock"

// errNoDaemon says that nobody listens at the socket.
var errNoDaemon = errors.New("no daemon")

// client speaks to one daemon.
type client struct {
	socket  string
	timeout time.Duration
	version string // of this program, for the messages
}

// refusal is a failure that the daemon reported.
type refusal struct {
	agent.Failure
	raw []byte
}

func (r refusal) Error() string {
	if len(r.Problems) == 0 {
		return r.Failure.Error
	}
	return r.Failure.Error + "\n" + strings.Join(r.Problems, "\n")
}

// about puts what was tried before an error, unless the daemon has said it already.
func about(what string, err error) error {
	if strings.HasPrefix(err.Error(), what+":") {
		return err
	}
	return fmt.Errorf("%s: %w", what, err)
}

// client finds the daemon. d is how long the command may take.
func (a *app) client(d time.Duration) (client, error) {
	if a.timeout > 0 {
		d = a.timeout
	}
	c := client{socket: a.socket, timeout: d, version: a.Version}
	if c.socket != "" {
		return c, nil
	}
	s, err := a.Settings(a.config)
	switch {
	case s.Socket != "":
		c.socket = s.Socket
	case a.config != "":
		// Another daemon than the named one must not be asked: this may be an uninstall.
		return client{}, fmt.Errorf("find the socket in %s: %w", a.config, err)
	default:
		// A default config that is broken must not hide the daemon that still runs with the old one.
		c.socket = cmp.Or(os.Getenv("FAIRLEAD_API_SOCKET"), defaultSocket)
	}
	return c, nil
}

// get asks for path, decodes the answer into v, and returns it as it came too.
func (c client) get(ctx context.Context, path string, v any) ([]byte, error) {
	return c.call(ctx, http.MethodGet, path, nil, v)
}

// call sends one request, with body as JSON unless it is nil, and decodes the answer into v.
func (c client) call(ctx context.Context, method, path string, body, v any) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	res, err := c.send(ctx, method, path, body)
	if err != nil {
		return nil, c.explain(ctx, err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err != nil {
		return nil, c.explain(ctx, err)
	}
	if len(raw) > maxAnswer {
		return nil, fmt.Errorf("answer to %s %s is larger than %d MiB: is %s the socket of fairlead?",
			method, path, maxAnswer>>20, c.socket)
	}
	if res.StatusCode/100 != 2 {
		return nil, c.refused(res.Status, method, path, raw)
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return nil, fmt.Errorf("answer to %s %s is not understood by fairlead %s; is the daemon of another version? %w",
			method, path, c.version, err)
	}
	return raw, nil
}

func (c client) send(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var content io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("write request: %w", err)
		}
		content = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://fairlead"+path, content)
	if err != nil {
		return nil, fmt.Errorf("write request: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("User-Agent", "fairlead/"+c.version)
	return c.transport().RoundTrip(req)
}

// transport dials the socket for one request; the commands ask one or two questions and end.
func (c client) transport() *http.Transport {
	return &http.Transport{
		DisableKeepAlives:  true,
		DisableCompression: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", c.socket)
		},
	}
}

// refused reads the body of an answer that is not a success.
func (c client) refused(status, method, path string, raw []byte) error {
	var f agent.Failure
	if err := json.Unmarshal(raw, &f); err != nil || f.Error == "" {
		return fmt.Errorf("%s answered %q to %s %s: is it the socket of fairlead, and of this version (%s)?",
			c.socket, status, method, path, c.version)
	}
	return refusal{Failure: f, raw: raw}
}

// explain turns a failure of the connection into what to do about it.
func (c client) explain(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("cannot open %s: permission denied: run this as root, or join the group that may read it: "+
			"usermod -aG fairlead $USER", c.socket)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOTSOCK):
		return fmt.Errorf("cannot reach fairlead at %s: is it running? systemctl start fairlead%w", c.socket, quiet{errNoDaemon})
	case errors.Is(context.Cause(ctx), context.DeadlineExceeded):
		return fmt.Errorf("fairlead did not answer at %s within %s: journalctl -u fairlead may say why", c.socket, c.timeout)
	case ctx.Err() != nil:
		return errors.New("interrupted")
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		return fmt.Errorf("fairlead at %s hung up before it had answered: journalctl -u fairlead may say why", c.socket)
	}
	return fmt.Errorf("ask fairlead at %s: %w", c.socket, err)
}

// quiet marks an error with another one without repeating its words.
type quiet struct{ error }

func (q quiet) Error() string { return "" }
func (q quiet) Unwrap() error { return q.error }
