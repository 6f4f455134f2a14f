package config

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

var durationType = reflect.TypeFor[time.Duration]()

// walk calls visit for each key below the struct v, in the order of the file, a section before its own keys. It goes on below a
// section or a list of sections where visit returns true.
func walk(v reflect.Value, prefix string, visit func(key string, f reflect.StructField, v reflect.Value) bool) {
	for i := range v.NumField() {
		f, at := v.Type().Field(i), v.Field(i)
		key := prefix + f.Tag.Get("mapstructure")
		if !visit(key, f, at) {
			continue
		}
		switch {
		case at.Kind() == reflect.Struct:
			walk(at, key+".", visit)
		case at.Kind() == reflect.Slice && at.Type().Elem().Kind() == reflect.Struct:
			for j := range at.Len() {
				walk(at.Index(j), fmt.Sprintf("%s[%d].", key, j), visit)
			}
		}
	}
}

// Default is the configuration of an empty file.
func Default() *Config {
	c := &Config{}
	walk(reflect.ValueOf(c).Elem(), "", func(key string, f reflect.StructField, v reflect.Value) bool {
		if text := f.Tag.Get("default"); text != "" {
			if err := set(v, text); err != nil {
				panic(fmt.Sprintf("config: default of %s: %v", key, err)) // a mistake in this package: every test meets it
			}
		}
		return true
	})
	return c
}

// set gives a field the value that a text stands for.
func set(v reflect.Value, text string) error {
	switch {
	case v.Type() == durationType:
		d, err := time.ParseDuration(text)
		v.SetInt(int64(d))
		return err
	case v.Kind() == reflect.Int:
		n, err := strconv.Atoi(text)
		v.SetInt(int64(n))
		return err
	case v.Kind() == reflect.Bool:
		b, err := strconv.ParseBool(text)
		v.SetBool(b)
		return err
	case v.Kind() == reflect.String:
		v.SetString(text)
		return nil
	}
	return fmt.Errorf("%s cannot have a default", v.Type())
}

// values holds the value of every key of a single value: viper takes only keys it knows from the environment.
func (c *Config) values() map[string]any {
	out := map[string]any{}
	walk(reflect.ValueOf(c).Elem(), "", func(key string, _ reflect.StructField, v reflect.Value) bool {
		switch v.Kind() {
		case reflect.Struct:
			return true
		case reflect.Slice:
			if v.Type().Elem().Kind() == reflect.String {
				out[key] = []string{}
			}
		default:
			out[key] = v.Interface()
		}
		return false
	})
	return out
}

// credentialsVar is where systemd puts the files of LoadCredential=.
const credentialsVar = "$CREDENTIALS_DIRECTORY/"

// resolve turns every path into one that can be opened from anywhere this process may be.
func (c *Config) resolve(base string) (bad []Problem) {
	one := func(key, path string) string {
		rest, credential := strings.CutPrefix(path, credentialsVar)
		dir := os.Getenv("CREDENTIALS_DIRECTORY")
		switch {
		case path == "" || filepath.IsAbs(path):
			return path
		case credential && dir == "":
			bad = append(bad, Problem{Key: key, What: path + ": $CREDENTIALS_DIRECTORY is not set",
				Next: "systemd sets it for the service (LoadCredential=); elsewhere set it to a directory with copies"})
			return path
		case credential:
			return filepath.Join(dir, rest)
		}
		return filepath.Join(base, path)
	}
	walk(reflect.ValueOf(c).Elem(), "", func(key string, f reflect.StructField, v reflect.Value) bool {
		switch {
		case f.Tag.Get("path") == "":
			return true
		case v.Kind() == reflect.String:
			v.SetString(one(key, v.String()))
		default:
			for i := range v.Len() {
				v.Index(i).SetString(one(fmt.Sprintf("%s[%d]", key, i), v.Index(i).String()))
			}
		}
		return false
	})
	return bad
}

// validation collects what is wrong with a configuration.
type validation struct {
	config   *Config
	vault    bool   // Vault signs: the keys that are about it count
	prefix   string // of the keys of the section that is looked at, like "clusters[0]."
	problems []Problem
}

// A section of the configuration has rules over several keys.
type section interface{ validate(v *validation) }

// An optional section can be switched off: what its tags say about its keys does not count then.
type optional interface{ off() bool }

// wrong adds a problem of a key of the section; next may be empty.
func (v *validation) wrong(key, what, next string) {
	v.problems = append(v.problems, Problem{Key: v.prefix + key, What: what, Next: next})
}

// need adds a problem where a key has no value.
func (v *validation) need(key, value, next string) {
	if value == "" {
		v.wrong(key, "is missing", next)
	}
}

// Validate reports everything that is wrong, in the order of the file. It reads no file. Without vault, when something else signs,
// no key of Vault is looked at.
func (c *Config) Validate(vault bool) []Problem {
	v := &validation{config: c, vault: vault}
	place := map[string]int{} // of each key in the file
	var off []string          // the sections that are switched off, with the dot
	c.validate(v)
	walk(reflect.ValueOf(c).Elem(), "", func(key string, f reflect.StructField, at reflect.Value) bool {
		place[key] = len(place)
		if f.Tag.Get("when") == "vault" && !vault {
			return false
		}
		if at.Kind() == reflect.Struct {
			v.section(at.Interface(), key+".")
			if o, ok := at.Interface().(optional); ok && o.off() {
				off = append(off, key+".")
			}
			return true
		}
		if !slices.ContainsFunc(off, func(prefix string) bool { return strings.HasPrefix(key, prefix) }) {
			v.tags(key, f.Tag, at)
		}
		for i := range items(at) {
			v.section(at.Index(i).Interface(), fmt.Sprintf("%s[%d].", key, i))
		}
		return true
	})
	at := func(p Problem) int { // of an item of a list of texts: the place of the list
		if n, ok := place[p.Key]; ok {
			return n
		}
		return place[p.Key[:strings.LastIndex(p.Key, "[")]]
	}
	slices.SortStableFunc(v.problems, func(a, b Problem) int { return at(a) - at(b) })
	return v.problems
}

// items is the number of sections in a list of them.
func items(list reflect.Value) int {
	if list.Kind() != reflect.Slice || list.Type().Elem().Kind() != reflect.Struct {
		return 0
	}
	return list.Len()
}

// section applies the rules over several keys of a section.
func (v *validation) section(s any, prefix string) {
	if s, ok := s.(section); ok {
		v.prefix = prefix
		s.validate(v)
		v.prefix = ""
	}
}

// tags applies what a key's tags say.
func (v *validation) tags(key string, tag reflect.StructTag, at reflect.Value) {
	if next := tag.Get("need"); next != "" && at.Len() == 0 {
		v.wrong(key, map[reflect.Kind]string{reflect.String: "is missing", reflect.Slice: "is empty"}[at.Kind()], next)
		return
	}
	check := tag.Get("check")
	low, high, spans := strings.Cut(check, "..")
	switch {
	case check == "":
	case check == "host:port":
		if _, _, err := net.SplitHostPort(at.String()); err != nil {
			v.wrong(key, fmt.Sprintf("%q is not host:port", at.String()), "")
		}
	case spans:
		if d := time.Duration(at.Int()); d < duration(low) || d > duration(high) {
			v.wrong(key, fmt.Sprintf("%s is not between %s and %s", d, low, high), "")
		}
	default:
		words := strings.Split(check, "|")
		if !slices.Contains(words, at.String()) {
			last := len(words) - 1
			v.wrong(key, fmt.Sprintf("%q is not %s or %s", at.String(), strings.Join(words[:last], ", "), words[last]), "")
		}
	}
}

// duration is a duration in a tag.
func duration(s string) time.Duration {
	d, err := time.ParseDuration(s)
	if err != nil {
		panic("config: " + err.Error()) // a mistake in this package: every test meets it
	}
	return d
}
