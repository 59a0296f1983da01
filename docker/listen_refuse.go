package docker

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"time"
)

// Refuse answers every call on l with why, until ctx ends: Docker says so at once instead of waiting for a driver that
// will not come.
func Refuse(ctx context.Context, l net.Listener, why string) error {
	// Docker reads Err of an answer that is not 200, for both of its kinds of drivers.
	body, err := json.Marshal(struct{ Err string }{why})
	if err != nil {
		return fmt.Errorf("write refusal: %w", err)
	}
	s := &http.Server{
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       5 * time.Second,
		WriteTimeout:      5 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", serverType)
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write(body) // who asked is gone: nobody is left to tell
		}),
	}
	if err := serveUntil(ctx, s, l, 5*time.Second); err != nil {
		return fmt.Errorf("refuse Docker's calls: %w", err)
	}
	return nil
}
