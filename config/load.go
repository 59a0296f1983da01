package config

import (
	"errors"
	"io/fs"
	"strings"

	"github.com/spf13/viper"
)

// Load reads the file at path, the drop-ins of conf.d beside it in the order of their names, and the environment, a list
// of NAME=value as os.Environ gives it. Later ones override single keys; [[pool]], [[endpoint]] and
// [[bgp.peer]] add up.
//
// An empty path is DefaultPath, and that file alone may be absent.
//
// The error is a Problems with every mistake of all of them. The Config is then what could be understood: good enough
// to find the daemon's socket, not to run by.
func Load(path string, env []string) (Config, error) {
	if path == "" {
		path = DefaultPath
	}
	return load(path, path == DefaultPath, env)
}

func load(path string, mayBeAbsent bool, env []string) (Config, error) {
	l := newLoader()
	file := l.files(path, mayBeAbsent)
	l.environment(env)
	c := l.config()
	c.File = file
	return c, l.err()
}

// loader holds what was read so far, layer upon layer.
type loader struct {
	findings
	shape    shape
	values   *viper.Viper            // defaults, files, environment: each over those before it
	layers   map[string][]assignment // who set a key, the last of them in force
	elements map[string][]*element   // by the name of their list
}

func newLoader() *loader {
	l := &loader{
		shape:    newShape(),
		values:   viper.New(),
		layers:   map[string][]assignment{},
		elements: map[string][]*element{},
	}
	for key, value := range defaults() {
		l.values.SetDefault(key, value)
	}
	return l
}

// files reads the main file and the drop-ins. It returns the path of the main file, or "" when there is none.
func (l *loader) files(path string, mayBeAbsent bool) string {
	read := path
	if err := l.file(path); mayBeAbsent && errors.Is(err, fs.ErrNotExist) {
		read = ""
	} else if err != nil {
		l.add(position{path, 1, 1}, "read config: %v", err)
	}
	more, dir, err := dropIns(path)
	if err != nil {
		l.add(position{dir, 1, 1}, "read drop-ins: %v", err)
	}
	for _, file := range more {
		if err := l.file(file); err != nil {
			l.add(position{file, 1, 1}, "read drop-in: %v", err)
		}
	}
	return read
}

// file takes in one file. The error says that it can not be read; what is wrong inside is found and noted.
func (l *loader) file(path string) error {
	l.in(path)
	doc, err := slurp(path, mostBytes)
	if err != nil {
		return err
	}
	s := newScan(path, doc, l.shape, &l.findings)
	s.run()
	for _, a := range s.scalars {
		l.layers[a.key] = append(l.layers[a.key], a)
		if err := l.values.MergeConfigMap(nest(a.key, a.value)); err != nil {
			l.add(a.at, "%s: %v", a.key, err)
		}
	}
	for _, e := range s.elements {
		l.elements[e.table] = append(l.elements[e.table], e)
	}
	return nil
}

// nest is the map of maps that viper knows a dotted key as.
func nest(key string, value any) map[string]any {
	for parent, name := split(key); ; parent, name = split(parent) {
		value = map[string]any{name: value}
		if parent == "" {
			return value.(map[string]any)
		}
	}
}

// environment takes in the variables that are named like keys: FAIRLEAD_BGP_ASN is bgp.asn.
//
// Viper could look into the environment of the process by itself. It is handed over instead, so that a value of the
// wrong type is found here, with the name of its variable, and so that a test can bring its own.
func (l *loader) environment(env []string) {
	keys := l.variables()
	seen := map[string]bool{}
	for _, pair := range env {
		name, value, _ := strings.Cut(pair, "=")
		if !strings.HasPrefix(name, envPrefix) || givenToContainers(name) || seen[name] {
			continue
		}
		seen[name] = true // the first one counts, as in os.Getenv
		l.variable(name, value, keys)
	}
}

func (l *loader) variable(name, value string, keys map[string]string) {
	at := position{file: "environment:" + plain(name)}
	l.in(at.file)
	key, known := keys[name]
	if !known {
		l.add(at, "%s", l.unknownVariable(name, keys))
		return
	}
	parsed, complaint := parseVariable(l.shape[key], value)
	if complaint != "" {
		l.add(at, "%s: %s", key, complaint)
		return
	}
	l.layers[key] = append(l.layers[key], assignment{key: key, value: parsed, at: at})
	l.values.Set(key, parsed)
}
