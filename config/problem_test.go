package config_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/config"
)

func TestManyProblemsAreBounded(t *testing.T) {
	path := write(t, map[string]string{"fairlead.toml": strings.Repeat("x = 1\n", 1000)})
	_, err := config.Load(path, nil)
	var found config.Problems
	if !errors.As(err, &found) || len(found) != 201 {
		t.Fatalf("got %d problems", len(found))
	}
	if last := found[200].Message; last != "and 800 more mistakes, here and elsewhere" {
		t.Errorf("got %q", last)
	}
}

// TestBestEffort: with problems elsewhere, the socket of a running daemon is still found.
func TestBestEffort(t *testing.T) {
	path := write(t, map[string]string{"fairlead.toml": "[node]\nrun_dir = '/run/other'\n[bgp]\nasn = -1\n"})
	c, err := config.Load(path, nil)
	if err == nil || c.API.Socket != "/run/other/fairlead.sock" || c.File != path {
		t.Errorf("got socket %q of %q, error %v", c.API.Socket, c.File, err)
	}
}
