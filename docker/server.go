package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"time"
)

const (
	serverType     = "application/vnd.docker.plugins.v1.2+json"
	serverMaxBody  = 1 << 20 // bytes of a request
	serverMaxText  = 2 << 10 // bytes of an error: it may quote what came
	serverIpamRole = "/IpamDriver."
)

// errMalformed is a request that no engine sends.
var errMalformed = errors.New("malformed request")

// Host is what the driver works with.
type Host struct {
	Addresses Addresses
	Networks  Networks
	Guests    Guests
}

// Driver answers an engine's calls.
type Driver struct {
	host    Host
	timeout time.Duration
	log     *slog.Logger
	calls   map[string]call // by path
}

// A call is one method of the protocol.
type call struct {
	waits string // for what it may take its time
	do    func(ctx context.Context, body []byte) (any, error)
}

// New makes a driver. No call takes longer than timeout, and none longer than that again to come.
func New(host Host, timeout time.Duration, log *slog.Logger) *Driver {
	d := &Driver{host: host, timeout: timeout, log: log}
	d.calls = map[string]call{
		"/Plugin.Activate":                           {do: d.activate},
		"/NetworkDriver.GetCapabilities":             {do: d.networkCapabilities},
		"/NetworkDriver.GwAllocCheck":                {do: take(d.checkGateways)},
		"/NetworkDriver.AllocateNetwork":             {do: d.refuseSwarm},
		"/NetworkDriver.FreeNetwork":                 {do: d.refuseSwarm},
		"/NetworkDriver.CreateNetwork":               {"the network to be written down", take(d.createNetwork)},
		"/NetworkDriver.DeleteNetwork":               {"the network to be forgotten", take(d.deleteNetwork)},
		"/NetworkDriver.CreateEndpoint":              {"the endpoint to be written down", take(d.createEndpoint)},
		"/NetworkDriver.DeleteEndpoint":              {"the endpoint's link and routes to go", take(d.deleteEndpoint)},
		"/NetworkDriver.EndpointOperInfo":            {do: take(d.endpointInfo)},
		"/NetworkDriver.Join":                        {"the endpoint's link and the host's routes to it", take(d.join)},
		"/NetworkDriver.Leave":                       {"the endpoint's ports to be closed", take(d.retract)},
		"/NetworkDriver.ProgramExternalConnectivity": {"the endpoint's ports to be open", take(d.expose)},
		"/NetworkDriver.RevokeExternalConnectivity":  {"the endpoint's ports to be closed", take(d.retract)},
		"/NetworkDriver.DiscoverNew":                 {do: take(d.ignoreNode)},
		"/NetworkDriver.DiscoverDelete":              {do: take(d.ignoreNode)},
		"/IpamDriver.GetCapabilities":                {do: d.ipamCapabilities},
		"/IpamDriver.GetDefaultAddressSpaces":        {do: d.addressSpaces},
		"/IpamDriver.RequestPool":                    {do: take(d.requestPool)},
		"/IpamDriver.ReleasePool":                    {do: take(d.releasePool)},
		"/IpamDriver.RequestAddress":                 {"an address", take(d.requestAddress)},
		"/IpamDriver.ReleaseAddress":                 {"the address to be given back", take(d.releaseAddress)},
	}
	return d
}

// Serve answers calls on l until ctx ends, then lets those that are under way finish.
//
// Idle connections are never closed from this side: an engine that sends on one at that moment sends again, but with an
// empty body (moby#39331). For the same reason calls are drained, and what comes with an empty body is refused.
func (d *Driver) Serve(ctx context.Context, l net.Listener) error {
	s := &http.Server{
		Handler:           http.HandlerFunc(d.answer),
		ReadHeaderTimeout: d.timeout,
		ReadTimeout:       2 * d.timeout,
		IdleTimeout:       -1,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(d.log.Handler(), slog.LevelDebug),
	}
	return serveUntil(ctx, s, l, 4*d.timeout) // to be read, done and answered
}

// answer serves one request, whatever comes.
func (d *Driver) answer(w http.ResponseWriter, r *http.Request) {
	defer func() {
		if p := recover(); p != nil {
			d.log.Error("Docker's call panicked", "method", r.URL.Path, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			respond(w, http.StatusInternalServerError, map[string]string{"Err": "fairlead failed in this call: see its log"})
		}
	}()
	c, known := d.calls[r.URL.Path]
	switch {
	case !known:
		// Newer engines try methods that a driver need not have, and take a 404 for an answer.
		d.log.Debug("Docker calls what this driver has not", "method", abridge(r.URL.Path))
		respond(w, http.StatusNotFound, map[string]string{"Err": "this driver has no " + abridge(r.URL.Path)})
		return
	case r.Method != http.MethodPost:
		w.Header().Set("Allow", http.MethodPost)
		respond(w, http.StatusMethodNotAllowed, map[string]string{"Err": "Docker's calls are sent by POST"})
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, serverMaxBody))
	if err != nil {
		err = fmt.Errorf("%w: read body: %w", errMalformed, err)
	} else if v, failed := d.perform(r.Context(), c, body); failed == nil {
		respond(w, http.StatusOK, v)
		return
	} else {
		err = failed
	}
	d.log.Warn("Docker's call failed", append(facts(body), "method", r.URL.Path[1:], "error", abridge(err.Error()))...)
	refuse(w, r.URL.Path, err)
}

// perform does a call to its end, also when the engine is gone: nobody asks again for what it wanted to be undone.
func (d *Driver) perform(ctx context.Context, c call, body []byte) (any, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.timeout)
	defer cancel()
	v, err := c.do(ctx, body)
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, fmt.Errorf("waited %s ([docker] timeout) for %s: %w", d.timeout, c.waits, err)
	}
	return v, err
}

// refuse answers an error where an engine looks for it: with status 200 each role has a field of its own, with any other
// both read Err.
func refuse(w http.ResponseWriter, path string, err error) {
	text := abridge(err.Error())
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		respond(w, http.StatusRequestEntityTooLarge, map[string]string{"Err": text})
	case errors.Is(err, os.ErrDeadlineExceeded):
		respond(w, http.StatusRequestTimeout, map[string]string{"Err": text})
	case errors.Is(err, errMalformed):
		respond(w, http.StatusBadRequest, map[string]string{"Err": text})
	case strings.HasPrefix(path, serverIpamRole):
		respond(w, http.StatusOK, map[string]string{"Error": text})
	default:
		respond(w, http.StatusOK, map[string]string{"Err": text})
	}
}

func respond(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		status, body = http.StatusInternalServerError, []byte(`{"Err":"the answer can not be written as JSON"}`)
	}
	w.Header().Set("Content-Type", serverType)
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // the engine is gone: nobody is left to tell
}

// take makes a call of a function of a typed request. Fields that it does not know are those of newer engines.
func take[Q interface{ check() error }](f func(context.Context, Q) (any, error)) func(context.Context, []byte) (any, error) {
	return func(ctx context.Context, body []byte) (any, error) {
		var q Q
		switch body = bytes.TrimSpace(body); {
		case len(body) == 0:
			return nil, fmt.Errorf("%w: the body is empty", errMalformed)
		case body[0] != '{':
			return nil, fmt.Errorf("%w: the body is no JSON object", errMalformed)
		}
		if err := json.Unmarshal(body, &q); err != nil {
			return nil, fmt.Errorf("%w: %w", errMalformed, err)
		}
		if err := q.check(); err != nil {
			return nil, fmt.Errorf("%w: %w", errMalformed, err)
		}
		return f(ctx, q)
	}
}

// facts are what a failed call was about, for the log.
func facts(body []byte) []any {
	var named struct{ NetworkID, EndpointID, PoolID, Pool, Address any }
	_ = json.Unmarshal(body, &named) // what can not be read is in the error
	var all []any
	for _, f := range []struct {
		name  string
		value any
	}{{"network", named.NetworkID}, {"endpoint", named.EndpointID}, {"pool_id", named.PoolID}, {"pool", named.Pool}, {"address", named.Address}} {
		if text, ok := f.value.(string); ok && text != "" {
			all = append(all, f.name, abridge(text))
		}
	}
	return all
}

func abridge(text string) string {
	if len(text) <= serverMaxText {
		return text
	}
	return strings.ToValidUTF8(text[:serverMaxText], "") + " ..."
}
