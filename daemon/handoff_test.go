package daemon

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/noipchat/noipchat/daemon/handoff"
)

var keepState = flag.String("keep-state", "", "write testdata/state/NAME.{gob,json}: what this version hands on")

// TestCarriedStates: what earlier versions have handed on is read as they meant it.
// A version that adds a field leaves its state here, by -keep-state NAME.
func TestCarriedStates(t *testing.T) {
	folder := filepath.Join("testdata", "state")
	if *keepState != "" {
		n := 0
		c := fill(reflect.TypeFor[Carried](), &n).Interface()
		var b bytes.Buffer
		if err := handoff.Encode(&b, c); err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		for ext, b := range map[string][]byte{".gob": b.Bytes(), ".json": text} {
			if err := os.WriteFile(filepath.Join(folder, *keepState+ext), b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	all, err := filepath.Glob(filepath.Join(folder, "*.gob"))
	if err != nil || len(all) < 2 {
		t.Fatalf("there are %q: %v", all, err)
	}
	for _, path := range all {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		var c Carried
		if err := handoff.Decode(f, &c); err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		var have, want any
		now, err := json.Marshal(c)
		if err == nil {
			err = json.Unmarshal(now, &have)
		}
		then, e := os.ReadFile(strings.TrimSuffix(path, ".gob") + ".json")
		if err == nil && e == nil {
			err = json.Unmarshal(then, &want)
		}
		if err != nil || e != nil {
			t.Fatal(err, e)
		}
		differ(t, path, have, want)
	}
}

// differ says what have lacks of want, or says otherwise. It may say more.
func differ(t *testing.T, where string, have, want any) {
	t.Helper()
	switch want := want.(type) {
	case map[string]any:
		have, _ := have.(map[string]any)
		for name := range want {
			differ(t, where+"."+name, have[name], want[name])
		}
	case []any:
		have, _ := have.([]any)
		if len(have) != len(want) {
			t.Errorf("%s has %d elements, not %d", where, len(have), len(want))
			return
		}
		for i := range want {
			differ(t, fmt.Sprintf("%s[%d]", where, i), have[i], want[i])
		}
	default:
		if have != want {
			t.Errorf("%s is %v, not %v", where, have, want)
		}
	}
}

// fill makes a value in which nothing is zero and hardly anything is twice.
func fill(of reflect.Type, n *int) reflect.Value {
	*n++
	v := reflect.New(of).Elem()
	switch {
	case of == reflect.TypeFor[time.Time]():
		return reflect.ValueOf(time.Unix(int64(1e9+*n), 0).UTC())
	case of.Kind() == reflect.Struct:
		for i := range of.NumField() {
			if of.Field(i).IsExported() {
				v.Field(i).Set(fill(of.Field(i).Type, n))
			}
		}
	case of.Kind() == reflect.Pointer:
		v.Set(reflect.New(of.Elem()))
		v.Elem().Set(fill(of.Elem(), n))
	case of.Kind() == reflect.Slice:
		v.Set(reflect.MakeSlice(of, 2, 2))
		for i := range 2 {
			v.Index(i).Set(fill(of.Elem(), n))
		}
	case of.Kind() == reflect.Array:
		for i := range of.Len() {
			v.Index(i).Set(fill(of.Elem(), n))
		}
	case of.Kind() == reflect.Map:
		v.Set(reflect.MakeMap(of))
		v.SetMapIndex(fill(of.Key(), n), fill(of.Elem(), n))
	case of.Kind() == reflect.String:
		v.SetString(fmt.Sprint("text ", *n))
	case of.Kind() == reflect.Bool:
		v.SetBool(true)
	case v.CanInt():
		v.SetInt(int64(1 + *n%100))
	case v.CanUint():
		v.SetUint(uint64(1 + *n%100))
	case v.CanFloat():
		v.SetFloat(float64(*n))
	default:
		panic(of)
	}
	return v
}
