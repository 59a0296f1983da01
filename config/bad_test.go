package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/fairlead-net/fairlead/config"
)

// TestBadConfigs reads each archive of testdata: files of a config directory, the variables in "environment", and in
// "problems" what must be said of them, which is nothing for a good config. DIR stands for the directory.
//
// UPDATE=1 writes what is said into the archives, to be read before it is committed.
func TestBadConfigs(t *testing.T) {
	archives, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatalf("find archives: %v, %d of them", err, len(archives))
	}
	for _, path := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) { judge(t, path) })
	}
}

func judge(t *testing.T, path string) {
	archive, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	dir, files := t.TempDir(), map[string]string{}
	for _, f := range archive.Files {
		files[f.Name] = strings.ReplaceAll(string(f.Data), "DIR", dir)
	}
	env := strings.Fields(files["environment"])
	want := files["problems"]
	delete(files, "environment")
	delete(files, "problems")
	writeIn(t, dir, files)

	_, err = config.Load(filepath.Join(dir, "fairlead.toml"), env)
	got := ""
	if err != nil {
		got = err.Error() + "\n"
	}
	if os.Getenv("UPDATE") != "" {
		record(t, path, archive, strings.ReplaceAll(strings.ReplaceAll(got, dir+"/", ""), dir, "DIR"))
		return
	}
	if diff := cmp.Diff(plain(dir, want), plain(dir, got)); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
}

func plain(dir, text string) string { return strings.ReplaceAll(text, dir+"/", "") }

func record(t *testing.T, path string, archive *txtar.Archive, problems string) {
	kept := archive.Files[:0]
	for _, f := range archive.Files {
		if f.Name != "problems" {
			kept = append(kept, f)
		}
	}
	kept = append(kept, txtar.File{Name: "problems", Data: []byte(problems)})
	archive.Files = kept
	if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
		t.Fatal(err)
	}
}
