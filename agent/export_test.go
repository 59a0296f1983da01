package agent

import (
	"context"
	"net/http"

	"golang.org/x/sys/unix"
)

// Handler is the API without its socket.
func (a *Agent) Handler() http.Handler { return a.handler() }

// AsRoot marks a request as one that came from root over the socket.
func AsRoot(r *http.Request) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), caller{}, &unix.Ucred{Uid: 0}))
}
