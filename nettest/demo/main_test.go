package main

import "testing"

// TestTheDemonstrationFindsAllAsItShouldBe plays it as `make demo` does.
func TestTheDemonstrationFindsAllAsItShouldBe(t *testing.T) {
	if code := run(nil, false); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
