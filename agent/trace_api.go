package agent

import (
	"fmt"
	"net/http"
	"strconv"
)

// getTrace answers GET /v1/trace?from=&to=&proto=&port=.
func (a *Agent) getTrace(r *http.Request) (any, error) {
	q, err := traceRequest(r)
	if err != nil {
		return nil, err
	}
	return a.Trace(q)
}

func traceRequest(r *http.Request) (TraceRequest, error) {
	v := r.URL.Query()
	q := TraceRequest{From: v.Get("from"), To: v.Get("to"), Proto: v.Get("proto")}
	if q.From == "" || q.To == "" {
		return q, fmt.Errorf("trace: %w: want from and to, each an address or the name of an endpoint", ErrBadRequest)
	}
	if port := v.Get("port"); port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return q, fmt.Errorf("trace: %w: port %q: want 1 to 65535", ErrBadRequest, port)
		}
		q.Port = uint16(n)
	}
	return q, nil
}
