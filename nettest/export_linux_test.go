package nettest

// ParseFrame is what a tap makes of a frame.
func ParseFrame(frame []byte) (Packet, bool) { return parseFrame(frame) }
