package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"
)

// format is how an answer is printed; the zero value is a table.
type format string

const (
	formatTable format = "table"
	formatJSON  format = "json"
	formatYAML  format = "yaml"
)

func formats() []string { return []string{string(formatTable), string(formatJSON), string(formatYAML)} }

// String makes format a flag.
func (f *format) String() string {
	if *f == "" {
		return string(formatTable)
	}
	return string(*f)
}

// Type names the values in the help.
func (f *format) Type() string { return strings.Join(formats(), "|") }

// Set takes one of the three words.
func (f *format) Set(s string) error {
	for _, known := range formats() {
		if s == known {
			*f = format(s)
			return nil
		}
	}
	return fmt.Errorf("want one of %s", strings.Join(formats(), ", "))
}

// human says that a person reads the answer, not a program.
func (f format) human() bool { return f == "" || f == formatTable }

// printRaw writes an answer of the API as it came: every field in its order, also those that this program is too old for.
func printRaw(w io.Writer, f format, raw []byte) error {
	if f == formatYAML {
		return printYAML(w, raw)
	}
	var b bytes.Buffer
	if err := json.Indent(&b, bytes.TrimSpace(raw), "", "  "); err != nil {
		return fmt.Errorf("print json: %w", err)
	}
	b.WriteByte('\n')
	_, err := w.Write(b.Bytes())
	return err
}

// printValue writes a value of our own in the same way.
func printValue(w io.Writer, f format, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("print %T: %w", v, err)
	}
	return printRaw(w, f, raw)
}

// printYAML writes JSON as YAML. JSON read as YAML keeps the order of its fields; only its look must go.
func printYAML(w io.Writer, raw []byte) error {
	var doc yaml.Node
	if err := yaml.Unmarshal(raw, &doc); err != nil {
		return fmt.Errorf("print yaml: %w", err)
	}
	plain(&doc)
	e := yaml.NewEncoder(w)
	e.SetIndent(2)
	if err := e.Encode(&doc); err != nil {
		return fmt.Errorf("print yaml: %w", err)
	}
	return e.Close()
}

func plain(n *yaml.Node) {
	if len(n.Content) > 0 || n.Kind == yaml.ScalarNode {
		n.Style = 0
	}
	for _, c := range n.Content {
		plain(c)
	}
}
