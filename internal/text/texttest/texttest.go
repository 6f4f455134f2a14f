// Package texttest holds the text that no reader may be shown as it came, for the tests of every place that shows words of another
// party.
package texttest

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

// Mark is what every reader of Nasty sees of it.
const Mark = "nasty"

// Points are characters that hide, move the cursor, turn the direction of text or look like a space without being one. They are
// listed here and not computed: the rule of what can be seen is what is tested.
var Points = []rune{
	0x00, 0x07, '\b', '\v', '\f', '\r', 0x1b, 0x1c, 0x7f, // of ASCII
	0x80, 0x85, 0x9b, 0xa0, 0xad, // next line, CSI, no-break space, soft hyphen
	0x034f, 0x061c, 0x115f, 0x180e, // joiner, Arabic letter mark, filler, Mongolian vowel separator
	0x2003, 0x200b, 0x200d, 0x200e, 0x200f, 0x2028, 0x2029, 0x202a, 0x202e, 0x2060, 0x2066, 0x2069,
	0x2800, 0x3164, 0xe000, 0xfe0f, 0xfeff, 0xffa0, 0xfff9, // blank of Braille, fillers, private use, annotation
	0xe0001, 0xe0100, 0xfffff, // tag, variation selector, unassigned
}

// forged is a line that would be taken for one of ours.
const forged = "approved by carol"

// Nasty is a text with all of Points in it, with bytes that are no UTF-8, and with a line of its own.
var Nasty = Mark + string(Points) + "\xff\xc3\n" + forged + "\n"

// Tame fails unless shown, all that a reader gets, has Nasty's mark in it, and nothing of Nasty that plays tricks.
func Tame(t testing.TB, where, shown string) {
	t.Helper()
	if !strings.Contains(shown, Mark) {
		t.Errorf("%s shows nothing of the text:\n%q", where, shown)
	}
	for _, r := range Points {
		if i := strings.IndexRune(shown, r); i >= 0 {
			t.Errorf("%s shows %U as it came:\n%q", where, r, shown[max(0, i-80):min(len(shown), i+20)])
			break
		}
	}
	if strings.ToValidUTF8(shown, "") != shown {
		t.Errorf("%s shows what is no UTF-8", where)
	}
	for line := range strings.Lines(shown) {
		if strings.HasPrefix(line, forged) {
			t.Errorf("%s lets a text begin a line:\n%q", where, shown)
			break
		}
	}
}

// Fill puts Nasty into every string that v points to, however deep, with one element in each list and map.
func Fill(v any) { fill(reflect.ValueOf(v).Elem(), 0) }

func fill(v reflect.Value, depth int) {
	if depth > 12 || !v.CanSet() || v.Type() == reflect.TypeFor[time.Time]() {
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(Nasty)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), depth+1)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), depth+1)
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), depth+1)
		}
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key, depth+1)
		fill(value, depth+1)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	default: // it holds no text
	}
}
