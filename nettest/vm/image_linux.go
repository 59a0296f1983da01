package vm

import (
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/fairlead-net/fairlead/nettest"
)

//go:embed init
var initScript []byte

// Image is a kernel and the root that it boots into: Debian's tools of this machine, the kernel's modules for networks,
// and the files of whoever made it.
type Image struct {
	Processors int    // of each machine that is booted from it; 0 is 2
	kernel     string // path of vmlinuz-VERSION
	initrd     string
}

// Kernel is the path of the kernel image that KERNEL stands for in words of .ci/kernel, which fetches it when need be.
func Kernel(t nettest.T) string {
	t.Helper()
	mod, err := output("go", "env", "GOMOD")
	if err != nil {
		t.Fatalf("find the top of the tree: %v", err)
	}
	path, err := output(append([]string{filepath.Join(filepath.Dir(mod), ".ci/kernel")}, strings.Fields(os.Getenv("KERNEL"))...)...)
	if err != nil {
		t.Fatalf("find a kernel: %v", err)
	}
	return path
}

// NewImage makes an image of a kernel and of files: for each path inside the file or directory here that is put there.
// It goes with the test.
func NewImage(t nettest.T, kernel string, files map[string]string) *Image {
	t.Helper()
	dir := nettest.NewDir(t, "")
	i := &Image{kernel: kernel, initrd: filepath.Join(dir, "initrd")}
	if err := i.make(root(filepath.Join(dir, "root")), files); err != nil {
		t.Fatalf("make image of %s: %v", kernel, err)
	}
	return i
}

func (i *Image) make(r root, files map[string]string) error {
	if err := r.furnish(); err != nil {
		return err
	}
	if err := r.addModules(i.kernel); err != nil {
		return err
	}
	for to, from := range files {
		if err := r.add(from, to); err != nil {
			return err
		}
	}
	if err := r.pack(i.initrd); err != nil {
		return err
	}
	return os.RemoveAll(string(r))
}

// pack writes everything below the root into the archive that a kernel unpacks when it boots.
func (r root) pack(initrd string) error {
	archive, err := os.Create(initrd)
	if err != nil {
		return err
	}
	defer archive.Close()
	cmd := exec.Command("sh", "-c", "find . -print0 | cpio --null --create --format=newc --owner=0:0 --quiet")
	cmd.Dir, cmd.Stdout = string(r), archive
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("pack root: %w: %s", err, &said)
	}
	if said.Len() > 0 { // the shell tells how cpio ended, and nobody how find did
		return fmt.Errorf("pack root: %s", &said)
	}
	return archive.Close()
}

// output is what a program prints, without the newline at its end.
func output(argv ...string) (string, error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, &said)
	}
	return strings.TrimSpace(string(out)), nil
}
