package vm

import "sync"

// kept is how much of the end of a console is kept, in bytes.
const kept = 16 << 10

// console keeps the end of what is written to it.
type console struct {
	mu   sync.Mutex
	text []byte
}

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.text = append(c.text, p...)
	if surplus := len(c.text) - kept; surplus > 0 {
		c.text = append([]byte("…"), c.text[surplus:]...)
	}
	return len(p), nil
}

func (c *console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.text)
}
