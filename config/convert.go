package config

import (
	"strconv"

	"github.com/pelletier/go-toml/v2/unstable"
)

// convert makes a Go value of a TOML one, or says why it is not of the kind.
func convert(k kind, n *unstable.Node) (value any, complaint string) {
	switch {
	case (k == text || k == duration) && n.Kind == unstable.String:
		return string(n.Data), ""
	case k == flag && n.Kind == unstable.Bool:
		return n.Data[0] == 't', ""
	case k == integer && n.Kind == unstable.Integer:
		i, err := strconv.ParseInt(string(n.Data), 0, 64)
		if err != nil {
			return nil, quoteless(string(n.Data)) + " is out of range"
		}
		return i, ""
	case k == list && n.Kind == unstable.Array:
		return convertList(n)
	case n.Kind == unstable.String && (k == integer || k == flag):
		return nil, "want " + k.want() + " without quotes, got " + quote(string(n.Data))
	}
	return nil, "want " + k.want() + ", got " + describe(n)
}

func convertList(n *unstable.Node) (value any, complaint string) {
	words := []string{}
	for it := n.Children(); it.Next(); {
		if it.Node().Kind != unstable.String {
			return nil, "want " + list.want() + ", got " + describe(it.Node()) + " in it"
		}
		words = append(words, string(it.Node().Data))
	}
	return words, ""
}

// describe names what a value is.
func describe(n *unstable.Node) string {
	switch n.Kind {
	case unstable.String:
		return "the string " + quote(string(n.Data))
	case unstable.Bool, unstable.Integer, unstable.Float:
		return quoteless(string(n.Data))
	case unstable.Array:
		return "a list"
	case unstable.InlineTable:
		return "a table"
	}
	return "a date or time"
}

// quoteless is a number or bool as it was written, cut where it goes on for too long.
func quoteless(s string) string {
	const most = 32
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
