package config

import (
	"fmt"
	"reflect"
	"strings"
)

// Change is a key whose value is another one, in TOML's spelling; "" means that it
// isn't there. Interfaces are known by their kind and address, wherever they stand,
// peers by their name, and links by where they lead:
// `interface[tcp 192.0.2.1:10001].public`, `peer[server2].link[tcp 192.0.2.2:10001].cost`.
type Change struct {
	Key    string `json:"key"`
	Before string `json:"before"`
	After  string `json:"after"`
	Hot    bool   `json:"hot"` // can be applied while running

	Handoff bool `json:"handoff"` // can be applied by a handoff
}

// Cold tells whether only a restart applies it.
func (c Change) Cold() bool { return !c.Hot && !c.Handoff }

// String is the change on one line.
func (c Change) String() string {
	switch {
	case c.Before == "":
		return fmt.Sprintf("+ %s = %s", c.Key, c.After)
	case c.After == "":
		return fmt.Sprintf("- %s = %s", c.Key, c.Before)
	}
	return fmt.Sprintf("~ %s = %s (was %s)", c.Key, c.After, c.Before)
}

// Diff returns what becomes different, in the order of the keys.
func Diff(before, after *Config) (all []Change) {
	old, now := before.Values(), after.Values()
	was := map[string]Value{}
	for _, v := range old {
		was[v.Key] = v
	}
	is := map[string]bool{}
	for _, v := range now {
		is[v.Key] = true
		if b := was[v.Key]; b.Text != v.Text {
			all = append(all, Change{v.Key, b.Text, v.Text, v.Hot, v.Handoff})
		}
	}
	for _, v := range old {
		if !is[v.Key] {
			all = append(all, Change{v.Key, v.Text, "", v.Hot, v.Handoff})
		}
	}
	return all
}

// Value is a key with its value, in TOML's spelling, and where that comes from.
type Value struct {
	Key, Text, Origin string
	Hot, Handoff      bool
}

// Values returns every key, those that have their default too.
func (c *Config) Values() (all []Value) {
	c.values(reflect.ValueOf(c).Elem(), "", "", &all)
	return all
}

// values walks a table. Its keys have one spelling for people and one for Origin.
func (c *Config) values(table reflect.Value, key, origin string, all *[]Value) {
	for field, v := range table.Fields() {
		name := field.Tag.Get("toml")
		if name == "" {
			continue
		}
		key, origin := join(key, name), join(origin, name)
		switch {
		case v.Kind() == reflect.Struct:
			c.values(v, key, origin, all)
		case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Struct:
			for i := range v.Len() {
				element := v.Index(i)
				c.values(element, fmt.Sprintf("%s[%v]", key, element.Interface()), index(origin, i), all)
			}
		default:
			change := field.Tag.Get("change")
			*all = append(*all, Value{key, spell(v), c.Origin(origin), change == "hot", change == "handoff"})
		}
	}
}

// spell writes a value as it stands in a file.
func spell(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case int:
		return fmt.Sprint(x)
	case []string:
		all := make([]string, len(x))
		for i := range x {
			all[i] = fmt.Sprintf("%q", x[i])
		}
		return "[" + strings.Join(all, ", ") + "]"
	default:
		return fmt.Sprintf("%q", fmt.Sprint(x))
	}
}

// String names an interface by what no two of them share.
func (i Interface) String() string { return i.Kind + " " + i.Bind }

// String names a peer.
func (p Peer) String() string { return p.Name }

// String names a link by what no two of a peer share.
func (k Link) String() string {
	where := k.Remote
	if k.Kind == "exec" {
		where = strings.Join(k.Command, " ")
	}
	if k.Local != "" {
		where += " from " + k.Local
	}
	return k.Kind + " " + where
}
