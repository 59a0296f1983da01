package nettest

import (
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"
)

// Bulk sends so many bytes over one TCP connection to a served address, which sends them back, and returns how long that
// took. It is an error when they come back changed, or not within the given time.
func (h *Host) Bulk(to netip.Addr, size int, patience time.Duration) (time.Duration, error) {
	begun := time.Now()
	var c net.Conn
	err := h.Do(func() (err error) {
		c, err = net.DialTimeout("tcp", netip.AddrPortFrom(to, portEcho).String(), patience)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("%s to %s: %w", h.Name, to, err)
	}
	defer c.Close()
	if err := c.SetDeadline(begun.Add(patience)); err != nil {
		return 0, err
	}
	table := crc64.MakeTable(crc64.ECMA)
	sent, got := crc64.New(table), crc64.New(table)
	failed := make(chan error, 1)
	go func() {
		stream := io.LimitReader(rand.NewChaCha8([32]byte{88}), int64(size))
		_, err := io.Copy(io.MultiWriter(c, sent), stream)
		failed <- err
	}()
	n, err := io.CopyN(got, c, int64(size))
	if err = errors.Join(err, <-failed); err != nil {
		return 0, fmt.Errorf("%s to %s: %d of %d bytes came back: %w", h.Name, to, n, size, err)
	}
	if sent.Sum64() != got.Sum64() {
		return 0, fmt.Errorf("%s to %s: what came back differs", h.Name, to)
	}
	return time.Since(begun), nil
}
