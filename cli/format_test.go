package cli

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
	"pgregory.net/rapid"
)

// TestYAMLKeepsEverything: what is printed as YAML reads back as the JSON that it was made of.
func TestYAMLKeepsEverything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"yes", "on", "~", "12:34:56", "1e3", "0x10", "", "a: b", "#", "- x", "\u2028", "é"}))
		object := rapid.MapOf(text, rapid.OneOf(
			rapid.Map(text, func(s string) any { return s }),
			rapid.Map(rapid.Bool(), func(b bool) any { return b }),
			rapid.Map(rapid.IntRange(-1e9, 1e9), func(n int) any { return n }),
			rapid.Map(rapid.SliceOf(text), func(s []string) any { return s }),
		)).Draw(t, "object")
		raw, err := json.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := printRaw(&out, formatYAML, raw); err != nil {
			t.Fatalf("%v: %s", err, raw)
		}
		var got, want map[string]any
		if err := yaml.Unmarshal(out.Bytes(), &got); err != nil {
			t.Fatalf("%v: %s", err, out.String())
		}
		want = numbers(object)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%s\n%s", diff, out.String())
		}
	})
}

// numbers makes of what was drawn what a YAML parser makes of it.
func numbers(object map[string]any) map[string]any {
	want := make(map[string]any)
	for k, v := range object {
		if texts, is := v.([]string); is {
			list := make([]any, len(texts))
			for i, s := range texts {
				list[i] = s
			}
			v = list
			if texts == nil {
				v = nil // null in JSON
			}
		}
		want[k] = v
	}
	return want
}

// TestYAMLForOldParsers: a label that says "yes" must not become true.
func TestYAMLForOldParsers(t *testing.T) {
	var out bytes.Buffer
	if err := printRaw(&out, formatYAML, []byte(`{"a":"yes","b":"02:46:40:58:01:02","c":[],"d":{},"on":"x","k":1,"t":true,"z":null}`)); err != nil {
		t.Fatal(err)
	}
	want := "a: \"yes\"\nb: \"02:46:40:58:01:02\"\nc: []\nd: {}\n\"on\": x\nk: 1\nt: true\nz: null\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}
