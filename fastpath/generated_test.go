package fastpath

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestGeneratedFilesAreOfTheirSources generates them again, as `make generate` does, and compares.
func TestGeneratedFilesAreOfTheirSources(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	_, line, found := strings.Cut(string(doc), "//go:generate go run ")
	if !found {
		t.Fatal("doc.go generates nothing")
	}
	line, _, _ = strings.Cut(line, "\n")
	command, flags, found := strings.Cut(line, " -- ")
	if !found {
		t.Fatalf("no flags of the compiler: %s", line)
	}
	arch, err := exec.CommandContext(t.Context(), "gcc", "-print-multiarch").Output()
	if err != nil {
		t.Fatalf("ask gcc for the machine (make deps installs it): %v", err)
	}
	dir := t.TempDir()
	args := strings.Fields(command)
	args = append([]string{"run", args[0], "-output-dir", dir}, args[1:]...)
	cmd := exec.CommandContext(t.Context(), "go", append(append(args, "--"), strings.Fields(flags)...)...)
	cmd.Env = append(os.Environ(), "GOPACKAGE=fastpath", "GOFILE=doc.go", "BPF2GO_CFLAGS=-I/usr/include/"+strings.TrimSpace(string(arch)))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("generate: %v\n%s", err, out)
	}
	for _, name := range []string{"datapath_bpfel.go", "datapath_bpfel.o"} {
		want, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		have, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(want, have) {
			t.Errorf("%s is not of its sources: run make generate, and commit what it changes", name)
		}
	}
}
