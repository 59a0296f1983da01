package nat

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/nettest"
)

// TestLostNewsAreNews: the socket says once that it lost something, and that may be to whoever only waits for it.
func TestLostNewsAreNews(t *testing.T) {
	h := nettest.NewHost(t, "a")
	for _, setup := range []string{
		"add table ip other", "add chain ip other c", "add table ip filter", "add chain ip filter FAIRLEAD-INPUT",
		"add rule ip filter FAIRLEAD-INPUT drop",
	} {
		h.Run("nft", setup)
	}
	var n *news
	if err := h.Do(func() (err error) { n, err = listen(inputSite()); return err }); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = n.close() }()
	const room = 4096 // bytes, so that it is full before the kernel comes to our chain
	var err error
	if e := n.raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, room) }); e != nil || err != nil {
		t.Fatal(e, err)
	}
	var batch strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&batch, "add rule ip other c ip saddr 10.0.%d.%d counter drop\n", i>>8, i&255)
	}
	h.Run("nft", batch.String()+"flush chain ip filter FAIRLEAD-INPUT")
	if !n.wait() {
		t.Fatal("the socket is closed")
	}
	if !n.concern() {
		t.Error("what was lost is taken for nothing")
	}
	if n.concern() {
		t.Error("it is told twice")
	}
	h.Run("nft", batch.String())
	if !n.wait() {
		t.Fatal("the socket is closed")
	}
	n.forget()
	if n.concern() {
		t.Error("what was forgotten is told")
	}
}
