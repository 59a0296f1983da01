package agent

import (
	"context"
	"encoding/json"
	"net/http"
	"time"
)

const (
	// lineLimit is how long a reader of events may take to make room for one more line. Who is stopped for longer gives
	// its place to others.
	lineLimit = 30 * time.Second
	lastLimit = time.Second // the same when the daemon ends
)

// streamEvents answers with a line of JSON for each event until the client leaves or the API ends.
func (a *Agent) streamEvents(w http.ResponseWriter, r *http.Request) {
	events, err := a.news.feed.join()
	if err != nil {
		fail(w, err)
		return
	}
	defer events.leave()
	s := stream{w: w, control: http.NewResponseController(w), over: a.news.feed.over}
	_ = s.control.SetReadDeadline(time.Time{}) // that of an ordinary call would end a quiet stream
	defer context.AfterFunc(s.over, func() { _ = s.control.SetWriteDeadline(time.Now().Add(lastLimit)) })()
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	for s.flush() == nil {
		batch := events.take(r.Context())
		if len(batch) == 0 || s.send(batch) != nil {
			return
		}
	}
}

// stream is an answer that goes on.
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
	over    context.Context
}

// send writes a line for each event. An error says that the client is gone or has stopped to read.
func (s stream) send(events []Event) error {
	to := json.NewEncoder(s.w)
	for _, e := range events {
		if err := to.Encode(e); err != nil {
			return err
		}
		if err := s.flush(); err != nil {
			return err
		}
	}
	return nil
}

// flush hands to the client what was written. The limit is anew for each line.
func (s stream) flush() error {
	limit := lineLimit
	if s.over.Err() != nil {
		limit = lastLimit
	}
	_ = s.control.SetWriteDeadline(time.Now().Add(limit))
	return s.control.Flush()
}
