package systemd_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestInstallPutsEverythingInItsPlace installs twice below a directory, and takes it away again.
func TestInstallPutsEverythingInItsPlace(t *testing.T) {
	for prefix, manager := range map[string]string{
		"/usr/local": "etc/NetworkManager/conf.d/fairlead.conf",
		"/usr":       "usr/lib/NetworkManager/conf.d/fairlead.conf",
	} {
		t.Run(prefix, func(t *testing.T) {
			root := install(t, "PREFIX="+prefix)
			below := strings.TrimPrefix(prefix, "/")
			want := []string{
				"-rw-r--r-- " + manager,
				"-rw-r--r-- etc/fairlead/fairlead.toml",
				"-rwxr-xr-x " + below + "/bin/fairlead",
				"-rw-r--r-- " + below + "/lib/systemd/network/10-fairlead.link",
				"-rw-r--r-- " + below + "/lib/systemd/network/10-fairlead.network",
				"-rw-r--r-- " + below + "/lib/systemd/networkd.conf.d/fairlead.conf",
				"-rw-r--r-- " + below + "/lib/systemd/system/fairlead.service",
				"-rw-r--r-- " + below + "/lib/systemd/system/fairlead.socket",
				"-rw-r--r-- " + below + "/lib/sysusers.d/fairlead.conf",
				"-rw-r--r-- " + below + "/share/bash-completion/completions/fairlead",
				"-rw-r--r-- " + below + "/share/doc/fairlead/LICENSE",
				"-rw-r--r-- " + below + "/share/doc/fairlead/config.example.toml",
				"-rw-r--r-- " + below + "/share/fish/vendor_completions.d/fairlead.fish",
				"-rw-r--r-- " + below + "/share/zsh/site-functions/_fairlead",
			}
			slices.Sort(want)
			if got := files(t, root); !slices.Equal(got, want) {
				t.Errorf("installed:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			unit := settings(string(load(t, root, below+"/lib/systemd/system/fairlead.service")))
			if got := unit["ExecStart"]; !slices.Equal(got, []string{prefix + "/bin/fairlead run"}) {
				t.Errorf("ExecStart=%q", got)
			}
			check(t, exec.Command(filepath.Join(root, prefix, "bin/fairlead"), "check", "--config", filepath.Join(root, "etc/fairlead/fairlead.toml")))
			check(t, exec.Command("bash", "-n", filepath.Join(root, prefix, "share/bash-completion/completions/fairlead")))
			for shell, file := range map[string]string{
				"bash": "bash-completion/completions/fairlead", "zsh": "zsh/site-functions/_fairlead", "fish": "fish/vendor_completions.d/fairlead.fish",
			} {
				if text := load(t, root, below+"/share/"+file); !strings.Contains(string(text), shell+" completion") {
					t.Errorf("%s holds no completion for %s", file, shell)
				}
			}
		})
	}
}

func TestInstallKeepsTheConfigThatIsThere(t *testing.T) {
	root := install(t)
	config := filepath.Join(root, "etc/fairlead/fairlead.toml")
	const mine = "# mine\n"
	if err := os.WriteFile(config, []byte(mine), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, goal := range []string{"install", "uninstall"} {
		check(t, exec.Command("make", "-C", "..", goal, "DESTDIR="+root))
		if got := load(t, root, "etc/fairlead/fairlead.toml"); string(got) != mine {
			t.Errorf("the config after make %s: %q", goal, got)
		}
	}
	if got := files(t, root); !slices.Equal(got, []string{"-rw-r--r-- etc/fairlead/fairlead.toml"}) {
		t.Errorf("left by make uninstall: %q", got)
	}
}

// files lists what is below root, with modes.
func files(t *testing.T, root string) (list []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			list = append(list, info.Mode().String()+" "+strings.TrimPrefix(path, root+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(list)
	return list
}

func load(t *testing.T, root, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func check(t *testing.T, command *exec.Cmd) {
	t.Helper()
	if out, err := command.CombinedOutput(); err != nil {
		t.Errorf("%v: %v\n%s", command.Args, err, out)
	}
}
