package nat

import "errors"

// ErrTaken is wrapped with who has the port.
var ErrTaken = errors.New("port is taken")
