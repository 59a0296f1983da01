package tunnel

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/reconcile"
)

// Sysctls is a table of kernel parameters. It knows only those that are wanted.
//
// There is no telling ours from others' here, so nothing is ever removed: who wants the old values back reads them
// before the first Put, and puts them.
type Sysctls struct {
	k    *Kernel
	want map[string]string
}

// Sysctls is the table of the kernel parameters that are wanted, as paths below /proc/sys.
func (k *Kernel) Sysctls(want map[string]string) *Sysctls {
	return &Sysctls{k: k, want: maps.Clone(want)}
}

// List reads the present values. A parameter that does not exist is left out, and forwarding that is on in name only is off.
func (t *Sysctls) List(context.Context) (map[string]string, error) {
	have := make(map[string]string, len(t.want))
	err := t.k.inside(func() error {
		for path := range t.want {
			value, err := readSysctl(path)
			switch {
			case errors.Is(err, os.ErrNotExist):
			case err != nil:
				return err
			default:
				have[path] = value
			}
		}
		torn, err := tornForwarding(have[forwarding4])
		if torn {
			have[forwarding4] = "0"
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return have, nil
}

// tornForwarding tells whether ip_forward is on and no link forwards. When two programs write it at the same time, as Docker
// and we do at boot, one may find the value there that the other has to take back and write again, and the kernel then
// takes neither for a change (net/ipv4/devinet.c, devinet_sysctl_forward).
func tornForwarding(value string) (bool, error) {
	for _, path := range []string{"net/ipv4/conf/default/forwarding", "net/ipv4/conf/lo/forwarding"} {
		if value != "1" {
			return false, nil
		}
		ofLinks, err := readSysctl(path)
		if err != nil || ofLinks != "0" {
			return false, err
		}
	}
	return true, nil
}

// Put writes a value, unless it is there already: writing ip_forward, even with the same value, may reset other
// parameters.
//
// IPv6 forwarding drops every default route that was learned from router advertisements on links that do not accept
// them from then on, so the wanted accept_ra go first. Forwarding sets that of every link, so what is wanted of links
// goes last.
func (t *Sysctls) Put(_ context.Context, path, value string) error {
	return t.k.inside(func() error {
		if path == forwarding6 {
			for _, before := range slices.Sorted(maps.Keys(t.want)) {
				if !strings.HasSuffix(before, acceptRA) {
					continue
				}
				if err := writeSysctl(before, t.want[before]); err != nil && !errors.Is(err, reconcile.ErrWaits) {
					return err
				}
			}
		}
		if err := writeWhole(path, value); err != nil {
			return err
		}
		for _, after := range slices.Sorted(maps.Keys(t.want)) {
			if !swept(path, after) {
				continue
			}
			if err := writeSysctl(after, t.want[after]); err != nil && !errors.Is(err, reconcile.ErrWaits) {
				return err
			}
		}
		return nil
	})
}

// writeWhole writes a kernel parameter until it is so on the links too. Should another program write it at the same time, it
// is torn by the time that one of the two returns.
func writeWhole(path, value string) error {
	for range 5 {
		if err := writeSysctl(path, value); err != nil || path != forwarding4 {
			return err
		}
		torn, err := tornForwarding(value)
		if err != nil || !torn {
			return err
		}
		if err := writeSysctl(path, "0"); err != nil { // or writing it would be no change
			return err
		}
	}
	return errors.New("write kernel parameter: ip_forward is on and no link forwards: another program writes it all the time")
}

// swept tells whether writing path sets the parameter of one link too.
func swept(path, ofLink string) bool {
	family := map[string]string{forwarding4: "net/ipv4/conf/", forwarding6: "net/ipv6/conf/"}[path]
	return family != "" && ofLink != path && strings.HasPrefix(ofLink, family) && strings.HasSuffix(ofLink, "/forwarding")
}

// Swept reads the parameters that writing path sets too and that differ from it: without them its old value does not
// bring all of the old state back.
func (k *Kernel) Swept(path string) (map[string]string, error) {
	found := make(map[string]string)
	err := k.inside(func() error {
		own, err := readSysctl(path)
		if err != nil {
			return err
		}
		files, err := filepath.Glob("/proc/sys/net/ipv[46]/conf/*/forwarding")
		if err != nil {
			return err
		}
		for _, file := range files {
			other := strings.TrimPrefix(file, "/proc/sys/")
			if !swept(path, other) {
				continue
			}
			value, err := readSysctl(other)
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
			if err == nil && value != own {
				found[other] = value
			}
		}
		return nil
	})
	return found, err
}

// Delete leaves the parameter as it is.
func (t *Sysctls) Delete(context.Context, string) error { return nil }

// ReadSysctl reads a kernel parameter, as a path below /proc/sys.
func (k *Kernel) ReadSysctl(path string) (value string, err error) {
	err = k.inside(func() error {
		value, err = readSysctl(path)
		return err
	})
	return value, err
}

func readSysctl(path string) (string, error) {
	b, err := os.ReadFile(filepath.Join("/proc/sys", path))
	if err != nil {
		return "", fmt.Errorf("read kernel parameter: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// writeSysctl writes a kernel parameter, unless it has that value. The error wraps reconcile.ErrWaits when there is no
// such parameter, as for a link that is gone.
func writeSysctl(path, value string) error {
	have, err := readSysctl(path)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: %w", reconcile.ErrWaits, err)
	}
	if err != nil || have == value {
		return err
	}
	// Not created when it is not there: this file system makes no files.
	f, err := os.OpenFile(filepath.Join("/proc/sys", path), unix.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("open kernel parameter: %w", err)
	}
	defer f.Close()
	if _, err := f.WriteString(value); err != nil {
		return fmt.Errorf("write kernel parameter: %w", err)
	}
	return nil
}
