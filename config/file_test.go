package config_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/config"
)

func TestDropInsOverrideAndAppend(t *testing.T) {
	path := write(t, map[string]string{
		"fairlead.toml":     "bgp = { asn = 64513, port = 1179 }\n[log]\nlevel = 'warn'\n[[pool]]\ncidr = '10.88.0.0/17'\n",
		"conf.d/20-b.toml":  "[log]\nlevel = 'error'\n[[bgp.peer]]\naddress = '192.0.2.3'\n[[endpoint]]\nname = 'a'\npublish = ['1:1']\n",
		"conf.d/10-a.toml":  "bgp.asn = 64514\n[log]\nlevel = 'debug'\n[[bgp.peer]]\naddress = '192.0.2.2'\n",
		"conf.d/30-c.toml":  "[[pool]]\nname = 'more'\ncidr = '10.88.128.0/17'\n[[endpoint]]\nname = 'b'\npublish = ['2:2']\n",
		"conf.d/40-d.tom":   "not read",
		"conf.d/.50-e.toml": "not read",
	})
	c, err := config.Load(path, []string{"FAIRLEAD_BGP_PORT=2179"})
	if err != nil {
		t.Fatal(err)
	}
	var pools, peers []string
	for _, p := range c.Pools {
		pools = append(pools, p.Name+" "+p.CIDR.String())
	}
	for _, p := range c.BGP.Peers {
		peers = append(peers, p.Address.String())
	}
	var published []string
	for _, e := range c.Endpoints {
		published = append(published, fmt.Sprint(e.Name, e.Publish))
	}
	got := []any{c.BGP.ASN, c.BGP.Port, c.Log.Level.String(), pools, peers, published, c.BGP.Peers[0].ASN}
	want := []any{
		uint32(64514), uint16(2179), "ERROR", []string{"default 10.88.0.0/17", "more 10.88.128.0/17"},
		[]string{"192.0.2.2", "192.0.2.3"}, []string{"a[1:1/tcp]", "b[2:2/tcp]"}, uint32(64514),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
}

func TestAbsentFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fairlead.toml")
	if got := problems(t, path); got != "fairlead.toml:1:1: read config: no such file or directory" {
		t.Errorf("a file that was named: got %q", got)
	}
	c, err := config.LoadDefault(path, nil)
	if err != nil || c.File != "" || len(c.Pools) != 1 || c.Pools[0].CIDR != netip.MustParsePrefix("10.88.0.0/16") {
		t.Errorf("the default file: got %+v, error %v", c, err)
	}
}

func TestAbsentFileWithDropIns(t *testing.T) {
	path := write(t, map[string]string{"conf.d/a.toml": "[log]\nformat = 'json'\n"})
	c, err := config.LoadDefault(path, nil)
	if err != nil || c.Log.Format != "json" {
		t.Errorf("got %+v, error %v", c.Log, err)
	}
}

func TestUnreadableFiles(t *testing.T) {
	path := write(t, map[string]string{
		"fairlead.toml":       "[log]\nlevel = 'loud'\n",
		"conf.d/10-big.toml":  strings.Repeat("#", 1<<20+1),
		"conf.d/11-full.toml": strings.Repeat("#", 1<<20),
	})
	dir := filepath.Join(filepath.Dir(path), "conf.d")
	if err := os.Symlink("nowhere", filepath.Join(dir, "20-dangling.toml")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, "30-fifo.toml"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/zero", filepath.Join(dir, "40-zero.toml")); err != nil {
		t.Fatal(err)
	}
	want := strings.Join([]string{
		`fairlead.toml:2:9: log.level: unknown word "loud"; allowed: "debug", "info", "warn", "error"`,
		"conf.d/10-big.toml:1:1: read drop-in: it is larger than 1048576 bytes",
		"conf.d/20-dangling.toml:1:1: read drop-in: no such file or directory",
		"conf.d/30-fifo.toml:1:1: read drop-in: it is not a regular file",
		"conf.d/40-zero.toml:1:1: read drop-in: it is not a regular file",
	}, "\n")
	if diff := cmp.Diff(want, problems(t, path)); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
}

func TestDropInDirectoryIsAFile(t *testing.T) {
	path := write(t, map[string]string{"fairlead.toml": "", "conf.d": ""})
	if got := problems(t, path); got != "conf.d:1:1: read drop-ins: not a directory" {
		t.Errorf("got %q", got)
	}
}

func TestPasswordFileModesAndOwners(t *testing.T) {
	const other = 65534
	for _, tc := range []struct {
		mode fs.FileMode
		uid  int
		want string // behind the name of the file; empty: the password is read
	}{
		{mode: 0o600},
		{mode: 0o400},
		{mode: 0o640, want: "mode 0640 is wider than 0600: chmod 0600 SECRET"},
		{mode: 0o604, want: "mode 0604 is wider than 0600: chmod 0600 SECRET"},
		{mode: 0o602, want: "mode 0602 is wider than 0600: chmod 0600 SECRET"},
		{mode: 0o700, want: "mode 0700 is wider than 0600: chmod 0600 SECRET"},
		{mode: 0o600 | fs.ModeSetuid, want: "mode 4600 is wider than 0600: chmod 0600 SECRET"},
		{mode: 0o600, uid: other, want: "it belongs to user 65534: chown root SECRET"},
	} {
		secret := filepath.Join(t.TempDir(), "secret")
		if err := os.WriteFile(secret, []byte("sesame\r\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(secret, max(tc.uid, os.Getuid()), -1); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(secret, tc.mode); err != nil {
			t.Fatal(err)
		}
		path := write(t, map[string]string{"fairlead.toml": "[[bgp.peer]]\naddress = '192.0.2.2'\npassword_file = '" + secret + "'\n"})
		want := tc.want
		if want != "" {
			want = `fairlead.toml:3:17: bgp.peer.password_file: read "` + secret + `": ` + strings.ReplaceAll(want, "SECRET", secret)
		}
		if diff := cmp.Diff(want, problems(t, path)); diff != "" {
			t.Errorf("mode %v, user %d: want -, got +:\n%s", tc.mode, tc.uid, diff)
		}
		if c, _ := config.Load(path, nil); tc.want == "" && c.BGP.Peers[0].Password != "sesame" {
			t.Errorf("mode %v: got password %q", tc.mode, string(c.BGP.Peers[0].Password))
		}
	}
}

func TestHookModesAndOwners(t *testing.T) {
	const other = 65534
	for _, tc := range []struct {
		mode fs.FileMode
		uid  int
		want string // behind the name of the file; empty: it may be run
	}{
		{mode: 0o755},
		{mode: 0o700},
		{mode: 0o500},
		{mode: 0o644, want: "mode 0644 does not let it be run: chmod +x HOOK"},
		{mode: 0o757, want: "mode 0757 lets others write to it: chmod go-w HOOK"},
		{mode: 0o775, want: "mode 0775 lets others write to it: chmod go-w HOOK"},
		{mode: 0o755, uid: other, want: "it belongs to user 65534: chown root HOOK"},
	} {
		dir := t.TempDir()
		hook, link := filepath.Join(dir, "hook"), filepath.Join(dir, "link")
		if err := os.WriteFile(hook, []byte("#!/bin/sh\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("hook", link); err != nil { // judged is where it leads
			t.Fatal(err)
		}
		if err := os.Chown(hook, max(tc.uid, os.Getuid()), -1); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(hook, tc.mode); err != nil {
			t.Fatal(err)
		}
		for _, program := range []string{hook, link} {
			path := write(t, map[string]string{"fairlead.toml": "[hooks]\non_detach = '" + program + "'\n"})
			want := tc.want
			if want != "" {
				want = `fairlead.toml:2:13: hooks.on_detach: "` + program + `": ` + strings.ReplaceAll(want, "HOOK", program)
			}
			if diff := cmp.Diff(want, problems(t, path)); diff != "" {
				t.Errorf("mode %v, user %d: want -, got +:\n%s", tc.mode, tc.uid, diff)
			}
			if c, _ := config.Load(path, nil); tc.want == "" && c.Agent().Hooks.OnDetach != program {
				t.Errorf("mode %v: got %+v", tc.mode, c.Agent().Hooks)
			}
		}
	}
}

// Whoever may write to a directory above it can put another program in the place of a hook.
func TestHookDirectories(t *testing.T) {
	for _, tc := range []struct {
		mode fs.FileMode
		uid  int
		want string // behind the name of the directory; empty: the hook may be run
	}{
		{mode: 0o755},
		{mode: 0o777 | fs.ModeSticky},
		{mode: 0o777, want: "lets others write to it: chmod go-w "},
		{mode: 0o775, want: "lets others write to it: chmod go-w "},
		{mode: 0o755, uid: 65534, want: "belongs to user 65534: move it, or chown root "},
	} {
		above := filepath.Join(t.TempDir(), "a")
		hook := filepath.Join(above, "b", "h")
		if err := os.MkdirAll(filepath.Dir(hook), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(hook, []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.Chown(above, max(tc.uid, os.Getuid()), -1), os.Chmod(above, tc.mode)); err != nil {
			t.Fatal(err)
		}
		want := ""
		if tc.want != "" {
			want = `fairlead.toml:2:13: hooks.on_attach: "` + hook + `": its directory ` + above + " " + tc.want + above
		}
		path := write(t, map[string]string{"fairlead.toml": "[hooks]\non_attach = '" + hook + "'\n"})
		if diff := cmp.Diff(want, problems(t, path)); diff != "" {
			t.Errorf("mode %v, user %d: want -, got +:\n%s", tc.mode, tc.uid, diff)
		}
	}
}
