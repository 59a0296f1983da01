package nettest

// ParseFrame is what a tap makes of a frame.
func ParseFrame(frame []byte) (Packet, bool) { return parseFrame(frame) }

// Sweep takes away what dead runs left.
func Sweep() { sweep() }
