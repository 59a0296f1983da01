package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/ipam"
	"github.com/fairlead-net/fairlead/nat"
)

const (
	maxBody     = 1 << 20 // bytes of a request
	callLimit   = 30 * time.Second
	socketGroup = "fairlead" // may read when it exists
)

// caller is the key under which a connection's credentials travel.
type caller struct{}

// Listen opens the API's unix socket. A socket that a dead daemon left is replaced, one that answers is not.
func Listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make directory of socket: %w", err)
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = c.Close()
		return nil, fmt.Errorf("listen on %s: another fairlead answers there: stop it, or set [api] socket", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove stale socket: %w", err)
	}
	old := unix.Umask(0o177)
	l, err := net.Listen("unix", path)
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if g, err := user.LookupGroup(socketGroup); err == nil {
		gid, _ := strconv.Atoi(g.Gid)
		if err := os.Chown(path, -1, gid); err != nil {
			return nil, errors.Join(fmt.Errorf("give socket to group %s: %w", socketGroup, err), l.Close())
		}
	}
	if err := os.Chmod(path, 0o660); err != nil {
		return nil, errors.Join(fmt.Errorf("set mode of socket: %w", err), l.Close())
	}
	return l, nil
}

// Serve answers the API on l until ctx ends, then lets calls that are under way finish.
func (a *Agent) Serve(ctx context.Context, l net.Listener) error {
	s := &http.Server{
		Handler:           a.handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      callLimit + 5*time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, caller{}, credentials(c))
		},
	}
	s.RegisterOnShutdown(a.news.feed.end)
	return serve(ctx, s, l)
}

func serve(ctx context.Context, s *http.Server, l net.Listener) error {
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		_ = s.Close()
	}
	<-ended
	return nil
}

// credentials asks the kernel who is at the other end of a unix socket; nil when it can not tell.
func credentials(c net.Conn) *unix.Ucred {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return nil
	}
	var cred *unix.Ucred
	_ = raw.Control(func(fd uintptr) {
		if got, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			cred = got
		}
	})
	return cred
}

func (a *Agent) handler() http.Handler {
	mux := http.NewServeMux()
	read := func(path string, f func(*http.Request) (any, error)) { mux.Handle("GET /v1/"+path, answer(f)) }
	write := func(pattern string, f func(*http.Request) (any, error)) { mux.Handle(pattern, rootOnly(answer(f))) }

	read("status", func(*http.Request) (any, error) { return a.Status(), nil })
	read("endpoints", func(*http.Request) (any, error) { return a.Endpoints() })
	read("endpoints/{name}", func(r *http.Request) (any, error) { return a.endpointNamed(r.PathValue("name")) })
	read("peers", func(*http.Request) (any, error) { return a.Peers(), nil })
	read("routes", func(*http.Request) (any, error) { return a.Routes(), nil })
	read("ports", func(*http.Request) (any, error) { return a.Ports(), nil })
	read("env/{name}", func(r *http.Request) (any, error) { return a.Environment(r.PathValue("name")) })
	mux.HandleFunc("GET /v1/events", a.streamEvents)
	read("trace", a.getTrace)
	mux.HandleFunc("GET /v1/trace/live", a.streamSightings)
	read("leases", func(*http.Request) (any, error) { return a.Leases() })

	write("POST /v1/endpoints", a.postEndpoint)
	write("DELETE /v1/endpoints/{name}", func(r *http.Request) (any, error) {
		return struct{}{}, a.Detach(r.Context(), r.PathValue("name"))
	})
	write("POST /v1/ports", a.postPorts)
	write("DELETE /v1/ports", func(r *http.Request) (any, error) {
		q := r.URL.Query()
		return a.Unpublish(r.Context(), PortsRequest{Endpoint: q.Get("endpoint"), Specs: q["spec"]})
	})
	write("POST /v1/reservations", a.postReservation)
	write("POST /v1/leases", a.postLease)
	write("DELETE /v1/leases/{address}", a.deleteLease)
	write("POST /v1/reload", func(r *http.Request) (any, error) { return a.Reload(r.Context()) })
	write("POST /v1/drain", func(r *http.Request) (any, error) { return struct{}{}, a.Drain(r.Context()) })
	write("POST /v1/uninstall", func(r *http.Request) (any, error) { return a.Uninstall(r.Context()) })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fail(w, fmt.Errorf("%w: no %s %s in this API", ErrNotFound, r.Method, r.URL.Path))
	})
	return mux
}

// created is an answer to something that was made.
type created struct{ what any }

// answer turns a function into a handler: its result or its error becomes the body.
func answer(f func(*http.Request) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), callLimit)
		defer cancel()
		r = r.WithContext(ctx)
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		v, err := f(r)
		if err != nil {
			fail(w, err)
			return
		}
		status := http.StatusOK
		if c, ok := v.(created); ok {
			status, v = http.StatusCreated, c.what
		}
		reply(w, status, v)
	})
}

func reply(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		status, body = http.StatusInternalServerError, []byte(`{"error":"the answer can not be written as JSON"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // the caller is gone: nobody is left to tell
}

// rootOnly lets only root change things; whoever may open the socket may look.
func rootOnly(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		cred, _ := r.Context().Value(caller{}).(*unix.Ucred)
		if cred == nil || cred.Uid != 0 {
			reply(w, http.StatusForbidden, Failure{Error: "only root may change things: use sudo"})
			return
		}
		h.ServeHTTP(w, r)
	})
}

// statuses maps the errors of the rooms to HTTP's words.
func statusOf(err error) int {
	var tooBig *http.MaxBytesError
	switch {
	case errors.As(err, &tooBig):
		return http.StatusRequestEntityTooLarge
	case errors.Is(err, ErrBadRequest), errors.Is(err, ipam.ErrForeign), errors.Is(err, ipam.ErrReserved), errors.Is(err, nat.ErrSpec):
		return http.StatusBadRequest
	case errors.Is(err, ErrNotFound), errors.Is(err, ipam.ErrNoPool), errors.Is(err, nat.ErrNotMapped):
		return http.StatusNotFound
	case errors.Is(err, ErrConflict), errors.Is(err, ipam.ErrTaken), errors.Is(err, ipam.ErrResting),
		errors.Is(err, nat.ErrTaken), errors.Is(err, nat.ErrConfigured):
		return http.StatusConflict
	case errors.Is(err, ErrRefused):
		return http.StatusUnprocessableEntity
	case errors.Is(err, nat.ErrNoPort), errors.Is(err, errCrowded), errors.Is(err, errUnseen), errors.Is(err, ipam.ErrExhausted), errors.Is(err, ipam.ErrNoBlock), errors.Is(err, ipam.ErrHeld), errors.Is(err, ErrStopped):
		return http.StatusServiceUnavailable
	case errors.Is(err, context.DeadlineExceeded):
		return http.StatusGatewayTimeout
	}
	return http.StatusInternalServerError
}

func fail(w http.ResponseWriter, err error) {
	f := Failure{Error: err.Error()}
	var refused *refusal
	if errors.As(err, &refused) {
		f = Failure{Error: ErrRefused.Error(), Problems: strings.Split(refused.cause.Error(), "\n")}
	}
	reply(w, statusOf(err), f)
}

// body reads a request's JSON strictly.
func body(r *http.Request, into any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("%w: body: %w", ErrBadRequest, err)
	}
	if d.More() {
		return fmt.Errorf("%w: body: something follows the JSON value", ErrBadRequest)
	}
	return nil
}

func (a *Agent) postEndpoint(r *http.Request) (any, error) {
	var req AttachRequest
	if err := body(r, &req); err != nil {
		return nil, err
	}
	e, fresh, err := a.Attach(r.Context(), req)
	if err == nil && fresh {
		return created{e}, nil
	}
	return e, err
}

func (a *Agent) postPorts(r *http.Request) (any, error) {
	var req PortsRequest
	if err := body(r, &req); err != nil {
		return nil, err
	}
	return a.Publish(r.Context(), req)
}

func (a *Agent) postReservation(r *http.Request) (any, error) {
	var req PortsRequest
	if err := body(r, &req); err != nil {
		return nil, err
	}
	return a.Reserve(r.Context(), req)
}

func (a *Agent) postLease(r *http.Request) (any, error) {
	var req LeaseRequest
	if err := body(r, &req); err != nil {
		return nil, err
	}
	return a.LeaseAddress(r.Context(), req)
}

func (a *Agent) deleteLease(r *http.Request) (any, error) {
	ip, err := netip.ParseAddr(r.PathValue("address"))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	return struct{}{}, a.ReleaseAddress(r.Context(), r.URL.Query().Get("owner"), ip)
}
