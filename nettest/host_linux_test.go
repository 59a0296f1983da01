package nettest_test

import (
	"net"
	"os"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/nettest"
)

func TestHostIsItsOwnNetworkAndGoesWithTheTest(t *testing.T) {
	var path string
	t.Run("lab", func(t *testing.T) {
		a, b := nettest.NewHost(t, "a"), nettest.NewHost(t, "b")
		path = a.Path
		nettest.Wire(t, a, "eth0", b, "eth0")
		a.IP("addr add 192.0.2.1/24 dev eth0")
		b.IP("addr add 192.0.2.2/24 dev eth0")
		var l net.Listener
		if err := b.Do(func() (err error) { l, err = net.Listen("tcp", "192.0.2.2:7000"); return err }); err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		err := a.Do(func() error {
			c, err := net.Dial("tcp", "192.0.2.2:7000")
			if err == nil {
				err = c.Close()
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		out, err := a.Command(t.Context(), "hostname").Output()
		if err != nil || strings.TrimSpace(string(out)) != "a" {
			t.Fatalf("hostname on a = %q, %v", out, err)
		}
	})
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Fatalf("namespace %s is still there: %v", path, err)
	}
}
