package config

import (
	"reflect"
	"strings"
)

// keys lists every key and table below a struct type: "spool", "spool.max_age",
// "interface.bind".
func keys(t reflect.Type, prefix string) []string {
	var list []string
	for field := range t.Fields() {
		name := field.Tag.Get("toml")
		if name == "" {
			continue
		}
		key := join(prefix, name)
		list = append(list, key)
		below := field.Type
		if below.Kind() == reflect.Slice {
			below = below.Elem()
		}
		if below.Kind() == reflect.Struct {
			list = append(list, keys(below, key)...)
		}
	}
	return list
}

// nearest returns the key that somebody who wrote an unknown one may have meant,
// or "". The same name in another table is near: in TOML, all that follows
// [spool] is in it.
func nearest(unknown string) string {
	unknown = plain(unknown)
	table, name := cutLast(unknown)
	best, bestCost := "", max(1, len(name)/3)
	for _, key := range keys(reflect.TypeFor[Config](), "") {
		t, n := cutLast(key)
		if len(n) > len(name)+3 || len(name) > len(n)+3 {
			continue
		}
		cost := distance(n, name)
		if t != table {
			cost++
		}
		if cost <= bestCost && cost <= 3 && (best == "" || cost < bestCost) {
			best, bestCost = key, cost
		}
	}
	return best
}

func cutLast(key string) (table, name string) {
	i := strings.LastIndexByte(key, '.')
	return key[:max(i, 0)], key[i+1:]
}

// distance counts the letters to insert, delete, replace or swap with their
// neighbour to get from a to b.
func distance(a, b string) int {
	var before, last []int // the two rows above
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before, last, row = last, row, make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			change := last[j]
			if a[i] != b[j] {
				change++
			}
			row[j+1] = min(change, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
	}
	return row[len(b)]
}
