package nettest

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
)

// Fetch asks the host's way for a page and returns its status and text.
func (h *Host) Fetch(url string) (code int, text string, err error) {
	return h.FetchFrom(netip.Addr{}, url)
}

// FetchFrom asks with one of the host's addresses.
func (h *Host) FetchFrom(from netip.Addr, url string) (code int, text string, err error) {
	d := net.Dialer{Timeout: Patience(callTime)}
	if from.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	}
	client := http.Client{Timeout: 2 * Patience(callTime), Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (c net.Conn, err error) {
			err = h.Do(func() (err error) {
				if address, err = numbered6(address); err == nil {
					c, err = d.DialContext(ctx, network, address)
				}
				return err
			})
			return c, err
		},
	}}
	res, err := client.Get(url)
	if err != nil {
		return 0, "", fmt.Errorf("%s: %w", h.Name, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return res.StatusCode, string(body), err
}

// numbered6 puts the number of a link in the place of its name in an IPv6 address. Package net remembers names of links for
// the whole process, and here each host has its own.
func numbered6(address string) (string, error) {
	at, err := netip.ParseAddrPort(address)
	if err != nil || at.Addr().Zone() == "" {
		return address, err
	}
	link, err := net.InterfaceByName(at.Addr().Zone())
	if err != nil {
		return "", err
	}
	return netip.AddrPortFrom(at.Addr().WithZone(strconv.Itoa(link.Index)), at.Port()).String(), nil
}
