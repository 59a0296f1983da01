package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
)

// defaultConfig is the file that `fairlead init` writes and the daemon reads.
const defaultConfig = "/etc/fairlead/fairlead.toml"

// initFlags are the flags of init as they were typed.
type initFlags struct {
	force, stdout bool
	name, address string
	pools, peers  []string
}

func (a *app) init() *cobra.Command {
	var f initFlags
	cmd := &cobra.Command{
		Use: "init", Short: "Write a commented config for this host", GroupID: groupHost,
		Example: "  fairlead init --peer 192.0.2.2 --peer 192.0.2.3",
		Args:    arguments(), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error {
			o, err := f.options()
			if err != nil {
				return err
			}
			text, err := a.Init(o)
			if err != nil {
				return fmt.Errorf("init: %w", err)
			}
			if f.stdout {
				_, err = fmt.Fprint(a.out, text)
				return err
			}
			path := cmp.Or(a.config, defaultConfig)
			if err := writeConfig(path, text, f.force); err != nil {
				return fmt.Errorf("init: %w", err)
			}
			_, err = fmt.Fprintf(a.out, "wrote %s; now: fairlead doctor, then systemctl enable --now fairlead\n", path)
			return err
		},
	}
	fs := cmd.Flags()
	fs.BoolVar(&f.force, "force", false, "replace a config that is there")
	fs.BoolVar(&f.stdout, "stdout", false, "print the config rather than write it")
	fs.StringVar(&f.name, "name", "", "`NAME` of this node (default: the host name)")
	fs.StringVar(&f.address, "address", "", "`ADDRESS` of this node (default: the source address of the default route)")
	fs.StringArrayVar(&f.pools, "pool", nil, "`CIDR` of container addresses; may be repeated")
	fs.StringArrayVar(&f.peers, "peer", nil, "`ADDRESS` of another node; may be repeated")
	return cmd
}

func (f *initFlags) options() (InitOptions, error) {
	o := InitOptions{Name: f.name}
	if f.address != "" {
		ip, err := netip.ParseAddr(f.address)
		if err != nil {
			return o, misusef("--address %q: want an address such as 192.0.2.1", f.address)
		}
		o.Address = ip
	}
	for _, s := range f.pools {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return o, misusef("--pool %q: want a range such as 10.88.0.0/16", s)
		}
		if p != p.Masked() {
			return o, misusef("--pool %s: bits are set to the right of the mask; the range is %s", p, p.Masked())
		}
		o.Pools = append(o.Pools, p)
	}
	for _, s := range f.peers {
		ip, err := netip.ParseAddr(s)
		if err != nil {
			return o, misusef("--peer %q: want an address such as 192.0.2.2", s)
		}
		o.Peers = append(o.Peers, ip)
	}
	return o, nil
}

// writeConfig puts the whole text at path or nothing. Without force it never replaces a file, not even one that
// appears meanwhile.
func writeConfig(path, text string, force bool) error {
	if _, err := os.Lstat(path); err == nil && !force {
		return fmt.Errorf("%s exists; --force replaces it", path)
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, ".fairlead-init-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	if err := fill(tmp, text); err != nil {
		return err
	}
	if force {
		return os.Rename(tmp.Name(), path)
	}
	err = os.Link(tmp.Name(), path)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists; --force replaces it", path)
	}
	return err
}

func fill(f *os.File, text string) error {
	_, err := f.WriteString(text)
	return errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
}
