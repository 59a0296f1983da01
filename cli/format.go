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

// printYAML writes JSON as YAML, with the fields in the order in which they came.
func printYAML(w io.Writer, raw []byte) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	doc, err := yamlNode(d)
	if err != nil {
		return fmt.Errorf("print yaml: %w", err)
	}
	e := yaml.NewEncoder(w)
	e.SetIndent(2)
	if err := e.Encode(doc); err != nil {
		return fmt.Errorf("print yaml: %w", err)
	}
	return e.Close()
}

// yamlNode reads one JSON value.
func yamlNode(d *json.Decoder) (*yaml.Node, error) {
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch v := token.(type) {
	case json.Delim:
		n := &yaml.Node{Kind: yaml.SequenceNode}
		if v == '{' {
			n.Kind = yaml.MappingNode
		}
		for d.More() {
			part, err := yamlNode(d) // of an object, keys and values in turn
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, part)
		}
		_, err = d.Token() // the closing delimiter
		return n, err
	case json.Number:
		return &yaml.Node{Kind: yaml.ScalarNode, Value: v.String()}, nil
	}
	if s, is := token.(string); is && !plain(s) {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Style: yaml.DoubleQuotedStyle, Value: s}, nil
	}
	// The library quotes what a parser, also one of YAML 1.1, would take for something else: yes, 12:34:56, 1e3.
	n := &yaml.Node{}
	return n, n.Encode(token)
}

// plain says that a string has nothing in it that means something to YAML, whatever it looks like as a whole.
func plain(s string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	return s != "" && strings.Trim(s, letters+" _./:,+@-") == "" && strings.Contains(letters+"/", s[:1]) &&
		!strings.Contains(s+" ", ": ") && !strings.HasSuffix(s, " ")
}
