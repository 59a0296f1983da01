package endpoint

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// furnish puts what r lacks inside; the thread must be in the namespace. Into a pair just made it puts everything at once.
// Otherwise the interface comes first, and what a change of it took away is looked for again.
func furnish(w *wire, v link, r Row, in *interior) error {
	for range 3 {
		if in.fresh || !in.lacks(r, true) {
			break
		}
		if err := in.mendLink(w, r); err != nil {
			return err
		}
		var err error
		if in, err = survey(w, v); err != nil {
			return err
		}
	}
	if err := in.enable6(r); err != nil {
		return err
	}
	if err := in.put(w, fittings(r, in)); err != nil {
		return err
	}
	if _, _, err := w.linkAt(in.self.index); err != nil { // with the carrier up to date
		return err
	}
	return settle6(w, r, in)
}

// lacks says whether something is missing: of the interface only, or of everything.
func (in *interior) lacks(r Row, linkOnly bool) bool {
	for _, f := range fittings(r, in) {
		if !f.held && (f.link || !linkOnly) {
			return true
		}
	}
	return r.IP6.IsValid() && in.disabled6()
}

// mendLink puts the interface right. Linux before 6.2 renames none that is up.
func (in *interior) mendLink(w *wire, r Row) error {
	if in.self.up && in.self.name != r.IfName {
		if err := w.one(setUp(in.self.index, false)); err != nil {
			return fmt.Errorf("take interface %s down to rename it: %w", in.self.name, err)
		}
		in.self.up = false
	}
	if err := in.enable6(r); err != nil {
		return err
	}
	var mend []fitting
	for _, f := range fittings(r, in) {
		if f.link {
			mend = append(mend, f)
		}
	}
	return in.put(w, mend)
}

// put carries out what is not held.
func (in *interior) put(w *wire, wanted []fitting) error {
	var lacking []fitting
	var reqs []*nl.NetlinkRequest
	for _, f := range wanted {
		if !f.held {
			lacking, reqs = append(lacking, f), append(reqs, f.put())
		}
	}
	results, err := w.apply(reqs...)
	if err != nil {
		return err
	}
	for i, err := range results {
		if err != nil {
			return fmt.Errorf("put %s: %w", lacking[i].name, in.blame(w, lacking[i], err))
		}
	}
	return nil
}

// enable6 switches IPv6 on where the container has it off and the endpoint needs it.
func (in *interior) enable6(r Row) error {
	if !r.IP6.IsValid() || !in.disabled6() {
		return nil
	}
	return writeConf6(in.self.name, "disable_ipv6", "0")
}

func (in *interior) disabled6() bool { return in.self.disable6 > 0 }

// blame names what stands in the way of a route.
func (in *interior) blame(w *wire, f fitting, err error) error {
	if f.way == (route{}) || !errors.Is(err, unix.EEXIST) || in.surveyRoutes(w) != nil {
		return err
	}
	rival, found := in.rival(f.way)
	if !found {
		return err
	}
	if l, found, _ := w.linkAt(rival.dev); found {
		return fmt.Errorf("there is %s dev %s already, which is %w; remove it, or start the container without a network",
			rival, l.name, ErrForeign)
	}
	return fmt.Errorf("there is %s already, which is %w", rival, ErrForeign)
}

// settle6 waits until packets to a new IPv6 address are taken in: also without duplicate detection the kernel makes the
// address's local route a moment after it has answered.
func settle6(w *wire, r Row, in *interior) error {
	if !r.IP6.IsValid() || in.addrs[r.IP6] {
		return nil
	}
	for pause := 20 * time.Microsecond; pause < settle6Most; pause *= 2 {
		local, err := w.local(r.IP6)
		if local || err != nil {
			return err
		}
		time.Sleep(pause)
	}
	return nil // the kernel is late, not wrong
}

const settle6Most = time.Second

// local says whether packets to a are taken in here.
func (w *wire) local(a netip.Addr) (bool, error) {
	body := &nl.RtMsg{}
	body.Family, body.Dst_len = uint8(family(a)), uint8(a.BitLen())
	data, err := w.ask(request(unix.RTM_GETROUTE, 0, body, nl.NewRtAttr(unix.RTA_DST, a.AsSlice())))
	switch {
	case errors.Is(err, errWire):
		return false, err
	case err != nil:
		return false, nil // no route yet
	}
	return nl.DeserializeRtMsg(data).Type == unix.RTN_LOCAL, nil
}
