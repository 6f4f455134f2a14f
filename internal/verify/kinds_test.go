package verify

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/breakglassd/breakglass/internal/ledger"
	"github.com/breakglassd/breakglass/internal/record"
)

// kindsFile holds one entry of every kind, a line each: the kind, a tab, the bytes as they stand in a ledger. A line that is there
// never changes: ledgers with such bytes exist.
const kindsFile = "testdata/kinds.golden"

var addKinds = flag.Bool("add-kinds", false, "add the kinds that "+kindsFile+" does not have yet")

// The bytes of every kind are frozen. A field that is added, renamed, moved or left out changes them here, and needs a new number.
func TestBytesOfEveryKindAreFrozen(t *testing.T) {
	frozen := readKinds(t)
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		body, ok := frozen[kind]
		if !ok {
			if body = sample(t, kind); !*addKinds {
				t.Errorf("%s has no line of %s: once its fields are right, run this test with -args -add-kinds", kind, kindsFile)
			}
			frozen[kind] = body
		}
		ev, err := Decode(ledger.Entry{Kind: kind, Body: body})
		if err != nil {
			t.Errorf("an entry that is in ledgers is not read any more: %v", err)
			continue
		}
		if ev.Kind() != kind { // a former number: it is read, and not written any more
			continue
		}
		if again := record.Draft(ev, nil).Body; !bytes.Equal(again, body) {
			t.Errorf("%s reads and writes again as other bytes:\n%s\n%s", kind, body, again)
		}
		if now := sample(t, kind); !bytes.Equal(now, body) {
			t.Errorf("%s has other fields than when it was frozen; give it the next number and keep the former as older[…]:\nfrozen %s\nnow    %s",
				kind, body, now)
		}
	}
	for kind := range frozen {
		if _, ok := kinds[kind]; !ok {
			t.Errorf("%s is in ledgers, and no kind that this release reads", kind)
		}
	}
	if *addKinds && !t.Failed() {
		var b bytes.Buffer
		for _, kind := range slices.Sorted(maps.Keys(frozen)) {
			fmt.Fprintf(&b, "%s\t%s\n", kind, frozen[kind])
		}
		if err := os.WriteFile(kindsFile, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func readKinds(t *testing.T) map[string][]byte {
	t.Helper()
	b, err := os.ReadFile(kindsFile)
	if err != nil && !*addKinds {
		t.Fatal(err)
	}
	frozen := map[string][]byte{}
	for line := range strings.Lines(string(b)) {
		kind, body, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if !ok || frozen[kind] != nil {
			t.Fatalf("%s: a line without a tab, or a kind twice: %s", kindsFile, line)
		}
		frozen[kind] = []byte(body)
	}
	return frozen
}

// sample returns the bytes of an event of the kind in which no field is empty. Of a former number it leaves out what came later.
func sample(t *testing.T, kind string) []byte {
	t.Helper()
	zero, err := kinds[kind]([]byte(`{}`))
	if err != nil {
		t.Fatalf("%s: %v", kind, err)
	}
	v := reflect.New(reflect.TypeOf(zero)).Elem()
	fill(t, v, kind)
	body := record.Draft(v.Interface().(record.Event), nil).Body
	for {
		_, err := kinds[kind](body)
		if err == nil {
			return body
		}
		field, ok := strings.CutPrefix(err.Error(), `field "`)
		field, _, found := strings.Cut(field, `" came with a later number`)
		if !ok || !found {
			t.Fatalf("%s: %v", kind, err)
		}
		body = without(t, body, field)
	}
}

// without returns a JSON object without one of its fields, the others in their order.
func without(t *testing.T, body []byte, field string) []byte {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(body))
	if _, err := d.Token(); err != nil {
		t.Fatal(err)
	}
	var parts []string
	for d.More() {
		name, err := d.Token()
		if err != nil {
			t.Fatal(err)
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			t.Fatal(err)
		}
		if name != field {
			parts = append(parts, fmt.Sprintf("%q:%s", name, value))
		}
	}
	return []byte("{" + strings.Join(parts, ",") + "}")
}

// fill gives every field of v a value that is not empty and names the field.
func fill(t *testing.T, v reflect.Value, name string) {
	t.Helper()
	if _, ok := v.Interface().(time.Time); ok {
		v.Set(reflect.ValueOf(time.Date(2026, 11, 28, 3, 4, 5, 0, time.UTC)))
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(name)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(int64(time.Second))
		if v.OverflowInt(int64(time.Second)) {
			v.SetInt(7)
		}
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uint:
		v.SetUint(7)
	case reflect.Float64:
		v.SetFloat(1.5)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(t, v.Elem(), name)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(t, v.Index(0), name)
	case reflect.Array:
		for i := range v.Len() {
			fill(t, v.Index(i), name)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(t, key, name)
		fill(t, value, name)
		v.SetMapIndex(key, value)
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() {
				fill(t, v.Field(i), f.Name)
			}
		}
	default:
		t.Fatalf("%s: a field of the kind %s: teach fill about it", name, v.Kind())
	}
}
