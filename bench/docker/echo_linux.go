package main

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/fairlead-net/fairlead/nettest"
)

const (
	echoTime  = 20 * time.Second      // until a container that runs must have answered
	echoPause = 50 * time.Millisecond // until it is asked again
)

// ping returns when an address answers.
func ping(from *nettest.Node, to netip.Addr) error {
	var c *net.IPConn
	err := from.Do(func() (err error) {
		c, err = net.DialIP("ip4:icmp", nil, &net.IPAddr{IP: to.AsSlice()})
		return err
	})
	if err != nil {
		return err
	}
	defer c.Close()
	echo := []byte{8, 0, 0xf7, 0xff, 0, 0, 0, 0} // RFC 792: a request without an identifier, with its checksum
	answer := make([]byte, 128)
	for begun := time.Now(); time.Since(begun) < echoTime; {
		_, err = c.Write(echo) // it fails while there is no way
		_ = c.SetReadDeadline(time.Now().Add(echoPause))
		if n, _, failed := c.ReadFrom(answer); err == nil && failed == nil && n >= len(echo) && answer[0] == 0 {
			return nil
		} else if err == nil {
			err = failed
		}
	}
	return fmt.Errorf("%s does not answer: %w", to, err)
}
