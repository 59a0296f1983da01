package config

import (
	"slices"
	"strconv"
	"strings"
)

const envPrefix = "FAIRLEAD_"

// Variable is the name of the environment variable that overrides a key: FAIRLEAD_BGP_ASN for bgp.asn.
func Variable(key string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// variables are the names of all variables, and the keys they set. Lists of tables have none.
func (l *loader) variables() map[string]string {
	names := map[string]string{}
	for key, k := range l.shape {
		if k != table && k != tables && l.shape.listed(key) == "" {
			names[Variable(key)] = key
		}
	}
	return names
}

// givenToContainers says whether Fairlead itself sets the variable, for the programs in its endpoints.
func givenToContainers(name string) bool {
	return name == envPrefix+"HOST_IP" || name == envPrefix+"HOST_IP6" || strings.HasPrefix(name, envPrefix+"PORT_")
}

func (l *loader) unknownVariable(name string, keys map[string]string) string {
	for key, k := range l.shape {
		if k == tables && strings.HasPrefix(name, Variable(key)+"_") {
			return l.shape.header(key) + " can be set in a file only"
		}
	}
	names := make([]string, 0, len(keys))
	for n := range keys {
		names = append(names, n)
	}
	slices.Sort(names)
	if guess, ok := suggest(name, names); ok {
		return "unknown variable; did you mean " + guess + "?"
	}
	return "unknown variable; a key of a table is set by " + envPrefix + "TABLE_KEY, as in " + Variable("bgp.asn")
}

// parseVariable makes a value of the kind out of text.
func parseVariable(k kind, s string) (value any, complaint string) {
	switch k {
	case integer:
		i, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return nil, "want an integer, got " + quote(s)
		}
		return i, ""
	case flag:
		if s != "true" && s != "false" {
			return nil, "want true or false, got " + quote(s)
		}
		return s == "true", ""
	}
	return s, ""
}
