package endpoint_test

import (
	"strings"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/nettest"
)

// watch listens to every change of links, addresses, routes and neighbours on hosts; what it returns fails the test if
// there was one.
func watch(t *testing.T, hosts ...*nettest.Host) (quiet func()) {
	t.Helper()
	var socks []*nl.NetlinkSocket
	for _, h := range hosts {
		err := h.Do(func() error {
			s, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_IFADDR,
				unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE)
			if err == nil {
				socks = append(socks, s)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		t.Helper()
		for i, h := range hosts {
			h.IP("link add flmarker type veth peer name flmarker2") // the change that ends the wait
			h.IP("link del flmarker")
			before(t, h, socks[i])
			socks[i].Close()
		}
	}
}

// before fails the test for each message that arrives before the marker's.
func before(t *testing.T, h *nettest.Host, s *nl.NetlinkSocket) {
	t.Helper()
	for {
		if err := s.SetReceiveTimeout(&unix.Timeval{Sec: 10}); err != nil {
			t.Fatal(err)
		}
		msgs, _, err := s.Receive()
		if err != nil {
			t.Fatalf("%s: marker not seen: %v", h.Name, err)
		}
		for _, m := range msgs {
			if m.Header.Type == unix.RTM_NEWLINK {
				attrs, err := nl.ParseRouteAttr(m.Data[unix.SizeofIfInfomsg:])
				if err != nil {
					t.Fatal(err)
				}
				for _, a := range attrs {
					if a.Attr.Type == unix.IFLA_IFNAME && strings.HasPrefix(unix.ByteSliceToString(a.Value), "flmarker") {
						return
					}
				}
			}
			t.Errorf("%s: message of type %d: %x", h.Name, m.Header.Type, m.Data)
		}
	}
}
