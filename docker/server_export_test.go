package docker

import "net/http"

// Answer serves one request without a socket.
func (d *Driver) Answer(w http.ResponseWriter, r *http.Request) { d.answer(w, r) }
