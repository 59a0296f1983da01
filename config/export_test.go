package config

// LoadDefault is Load of a default file at another path.
func LoadDefault(path string, env []string) (Config, error) { return load(path, true, env) }

// Keys are all keys of the contract.
func Keys() []string {
	var keys []string
	for path, k := range newShape() {
		if k != table && k != tables {
			keys = append(keys, path)
		}
	}
	return keys
}

// Default is the default of a key and whether it has one; typed says whether the default is of the key's kind.
func Default(key string) (value any, typed, ok bool) {
	value, ok = defaults()[key]
	switch value.(type) {
	case string:
		typed = newShape()[key] == text || newShape()[key] == duration
	case int64:
		typed = newShape()[key] == integer
	case bool:
		typed = newShape()[key] == flag
	case []string:
		typed = newShape()[key] == list
	}
	return value, typed, ok
}

// Suggest is what was most likely meant by word.
func Suggest(word string, candidates ...string) string {
	guess, _ := suggest(word, candidates)
	return guess
}
