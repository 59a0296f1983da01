package vm

import (
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// root is the directory that becomes the root of a machine.
type root string

// tools are what tests call. Where busybox has one of the same name, this machine's own is the one inside.
var tools = []string{
	"sh", "busybox", "modprobe",
	"ip", "bridge", "tc", "ss", "ethtool", "ping", "sysctl", "nsenter", "unshare", "hostname",
	"nft", "ipset", "iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore",
	"iptables-nft", "iptables-legacy", "iptables-legacy-save", "iptables-legacy-restore",
	"ip6tables-nft", "ip6tables-legacy", "ip6tables-legacy-save", "ip6tables-legacy-restore",
}

// data is what these tools read: names of protocols, and the extensions of iptables. What is not here is not needed.
var data = []string{"/etc/iproute2", "/usr/share/iproute2", "/etc/protocols", "/etc/services", "/etc/ethertypes", "/usr/lib/*/xtables/*.so"}

// wanted are the modules that the machine has, with what they depend on. It loads them when they are asked for.
var wanted = []string{
	"kernel/net/", "kernel/drivers/net/", "kernel/drivers/virtio/", "kernel/drivers/char/virtio_console.", "kernel/crypto/", "kernel/lib/",
}

// furnish puts in what every machine has.
func (r root) furnish() error {
	for _, dir := range []string{"usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "proc", "sys", "dev", "run", "tmp", "root", "etc"} {
		if err := os.MkdirAll(filepath.Join(string(r), dir), 0o755); err != nil {
			return err
		}
	}
	for _, dir := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := os.Symlink("usr/"+dir, r.path(dir)); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{
		"init": string(initScript), "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n", "etc/group": "root:x:0:\n",
		"etc/hosts": "127.0.0.1 localhost machine\n::1 localhost\n",
	} {
		if err := os.WriteFile(r.path(name), []byte(text), 0o755); err != nil {
			return err
		}
	}
	if err := r.addTools(); err != nil {
		return err
	}
	return r.addData()
}

func (r root) path(inside string) string { return filepath.Join(string(r), inside) }

func (r root) addTools() error {
	for _, name := range tools {
		at, err := exec.LookPath(name)
		if err != nil {
			return err
		}
		if err := r.addProgram(at); err != nil {
			return fmt.Errorf("add %s: %w", name, err)
		}
	}
	applets, err := output("busybox", "--list")
	if err != nil {
		return err
	}
	for name := range strings.FieldsSeq(applets) {
		if !r.has("usr/bin/"+name) && !r.has("usr/sbin/"+name) {
			if err := os.Symlink("busybox", r.path("usr/bin/"+name)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r root) has(inside string) bool {
	_, err := os.Lstat(r.path(inside))
	return err == nil
}

// addProgram puts a program in, under every name that it has on the way to its file, and its libraries.
func (r root) addProgram(at string) error {
	file, err := filepath.EvalSymlinks(at)
	if err != nil {
		return err
	}
	if !r.has(file) {
		if err := r.add(file, file); err != nil {
			return err
		}
	}
	if !r.has(at) {
		if err := os.Symlink(file, r.path(at)); err != nil {
			return err
		}
	}
	return r.addLibraries(file)
}

// addLibraries puts in the libraries that a file is linked with, where the loader looks for them.
func (r root) addLibraries(file string) error {
	libraries, err := linked(file)
	if err != nil || len(libraries) == 0 {
		return err
	}
	list, err := output("ldd", file)
	if err != nil {
		return err
	}
	for word := range strings.FieldsSeq(list) {
		if filepath.IsAbs(word) && !r.has(word) {
			if err := r.add(word, word); err != nil {
				return err
			}
		}
	}
	return nil
}

func linked(file string) ([]string, error) {
	f, err := elf.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.ImportedLibraries()
}

func (r root) addData() error {
	for _, pattern := range data {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		for _, from := range found {
			if err := r.add(from, from); err != nil {
				return err
			}
			if strings.HasSuffix(from, ".so") {
				if err := r.addLibraries(from); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// addModules puts in the modules that a machine may ask for, and the list by which modprobe finds them.
func (r root) addModules(kernel string) error {
	version := strings.TrimPrefix(filepath.Base(kernel), "vmlinuz-")
	inside := filepath.Join("/lib/modules", version)
	from := filepath.Join(filepath.Dir(filepath.Dir(kernel)), inside)
	paths, err := chosen(filepath.Join(from, "modules.dep"))
	if err != nil {
		return err
	}
	for _, path := range append(paths, "modules.order", "modules.builtin", "modules.builtin.modinfo") {
		if err := r.add(filepath.Join(from, path), filepath.Join(inside, path)); err != nil {
			return err
		}
	}
	_, err = output("depmod", "-b", string(r), version)
	return err
}

// chosen are the paths of the wanted modules and of all that they depend on.
func chosen(dep string) ([]string, error) {
	text, err := os.ReadFile(dep)
	if err != nil {
		return nil, err
	}
	var paths []string
	for line := range strings.Lines(string(text)) {
		module, needs, _ := strings.Cut(line, ":") // kernel/net/ipv4/ipip.ko: kernel/net/ipv4/tunnel4.ko …
		if slices.ContainsFunc(wanted, func(prefix string) bool { return strings.HasPrefix(module, prefix) }) {
			paths = append(append(paths, module), strings.Fields(needs)...)
		}
	}
	slices.Sort(paths)
	return slices.Compact(paths), nil
}

// add puts a file or a directory of this machine in.
func (r root) add(from, inside string) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	to := r.path(inside)
	if info.IsDir() {
		return os.CopyFS(to, os.DirFS(from))
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return copyFile(from, to, info.Mode().Perm())
}

func copyFile(from, to string, mode fs.FileMode) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	if _, err := dst.ReadFrom(src); err != nil {
		_ = dst.Close()
		return fmt.Errorf("copy %s: %w", from, err)
	}
	return dst.Close()
}
