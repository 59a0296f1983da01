package config

import (
	"strconv"
)

// section reads the keys of one table, or of one element of a list of tables.
type section struct {
	*loader
	table   string
	element *element // nil for a plain table
}

// parser makes a typed value of string, int64, bool or []string. An error says what is wrong, and with which value.
type parser[T any] func(any) (T, error)

// read is the value of a key that is in force. Values that were overridden are judged too: they are mistakes, if hidden.
// What is wrong is noted, and the zero value returned.
func read[T any](s section, key string, parse parser[T]) T {
	var zero T
	path := join(s.table, key)
	for _, a := range s.overridden(path) {
		if _, err := parse(a.value); err != nil {
			s.add(a.at, "%s: %v", path, err)
		}
	}
	value := s.value(key)
	if value == nil {
		return zero // said already when it was read
	}
	got, err := parse(value)
	if err != nil {
		s.add(s.at(key), "%s: %v", path, err)
		return zero
	}
	return got
}

// optional reads "" and a key that is not there as the zero value.
func optional[T any](parse parser[T]) parser[T] {
	return func(v any) (T, error) {
		if v == "" {
			var zero T
			return zero, nil
		}
		return parse(v)
	}
}

func (s section) value(key string) any {
	if s.element == nil {
		return s.values.Get(join(s.table, key))
	}
	if a, set := s.element.fields[key]; set {
		return a.value
	}
	return s.values.Get(join(s.table, key)) // viper knows only defaults here
}

func (s section) overridden(path string) []assignment {
	layers := s.layers[path]
	if s.element != nil || len(layers) < 2 {
		return nil
	}
	return layers[:len(layers)-1]
}

// has says whether a file or a variable sets the key.
func (s section) has(key string) bool {
	if s.element != nil {
		_, set := s.element.fields[key]
		return set
	}
	return len(s.layers[join(s.table, key)]) > 0
}

// at is where the value of a key stands: for an element that does not have it, where the element begins.
func (s section) at(key string) position {
	if s.element != nil {
		if a, set := s.element.fields[key]; set {
			return a.at
		}
		return s.element.at
	}
	if layers := s.layers[join(s.table, key)]; len(layers) > 0 {
		return layers[len(layers)-1].at
	}
	return position{file: "defaults"}
}

// part is where the i-th string of a list stands.
func (s section) part(key string, i int) position {
	if a := s.element.fields[key]; i < len(a.parts) {
		return a.parts[i]
	}
	return s.at(key)
}

// need notes that an element lacks a key which has no default.
func (s section) need(key, example string) {
	if !s.has(key) {
		s.add(s.element.at, "%s has no %s: add %s = %s", s.shape.header(s.table), key, key, strconv.Quote(example))
	}
}
