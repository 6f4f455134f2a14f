package config

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/viper"

	"github.com/breakglassd/breakglass/internal/strictyaml"
)

// Problem is one mistake in a configuration.
type Problem struct {
	Place string // where in the file, as file:line; empty where a key says enough
	Key   string // like clusters[0].id; empty where the mistake is in no key
	What  string // what is wrong with it
	Next  string // what to do; may be empty
}

// String is the problem in one line.
func (p Problem) String() string {
	parts := []string{p.Place, p.Key, p.What, p.Next}
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), ": ")
}

// Error is everything that is wrong with a configuration, in the order of the file.
type Error struct{ Problems []Problem }

// Lines are the problems, one a line. Of a file that is hopeless they are the first.
func (e *Error) Lines() []string {
	const most = 100
	var lines []string
	for i, p := range e.Problems {
		if i == most {
			return append(lines, fmt.Sprintf("and %d more", len(e.Problems)-most))
		}
		lines = append(lines, p.String())
	}
	return lines
}

// Error lists the problems, one a line.
func (e *Error) Error() string {
	return "the configuration has mistakes:\n  " + strings.Join(e.Lines(), "\n  ")
}

// Load reads, merges and validates a configuration file. Relative paths in it are relative to the file. What is wrong with its content
// is an [*Error].
func Load(path string) (*Config, error) {
	text, err := ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration (name it with --config; config.example.yaml shows every key): %w", err)
	}
	return Parse(path, text)
}

// Parse is Load for a text that was read from path.
func Parse(path string, text []byte) (*Config, error) {
	if bad := checkYAML(path, text); len(bad) > 0 {
		return nil, &Error{bad}
	}
	v := viper.New()
	v.SetConfigType("yaml")
	v.SetEnvPrefix("BREAKGLASS")
	v.SetEnvKeyReplacer(strings.NewReplacer(".", "_"))
	v.AutomaticEnv()
	for key, value := range Default().values() {
		v.SetDefault(key, value)
	}
	if err := v.ReadConfig(bytes.NewReader(text)); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	var c Config
	err := v.UnmarshalExact(&c, func(d *mapstructure.DecoderConfig) {
		d.WeaklyTypedInput = false
		d.DecodeHook = mapstructure.ComposeDecodeHookFunc(mapstructure.StringToTimeDurationHookFunc(), mapstructure.StringToSliceHookFunc(","),
			envBool, envInt)
	})
	if err != nil {
		return nil, &Error{[]Problem{{Place: path + " and the environment", What: err.Error()}}}
	}
	if bad := append(c.resolve(filepath.Dir(path)), c.Validate(true)...); len(bad) > 0 {
		return nil, &Error{bad}
	}
	return &c, nil
}

// envBool turns the text of an environment variable into a bool. In the file, checkYAML has refused text already.
func envBool(from, to reflect.Type, data any) (any, error) {
	if from.Kind() != reflect.String || to.Kind() != reflect.Bool {
		return data, nil
	}
	switch data {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return nil, fmt.Errorf("%q is neither true nor false", data)
}

// envInt turns the text of an environment variable into a number, as envBool does into a bool.
func envInt(from, to reflect.Type, data any) (any, error) {
	if from.Kind() != reflect.String || to.Kind() != reflect.Int {
		return data, nil
	}
	n, err := strconv.Atoi(fmt.Sprint(data))
	if err != nil {
		return nil, fmt.Errorf("%q is not a number", data)
	}
	return n, nil
}

// checkYAML finds what viper would pass over: unknown and repeated keys, values of a wrong type, a second document.
func checkYAML(name string, text []byte) (bad []Problem) {
	var r strictyaml.Reader
	if root, ok := r.Document(text, "the configuration", "start from config.example.yaml"); ok {
		checkValue(root, reflect.TypeFor[Config]())
	}
	var found *strictyaml.Error
	if !errors.As(r.Err(name), &found) {
		return nil
	}
	for _, p := range found.Problems {
		place := name
		if p.Line > 0 {
			place += ":" + strconv.Itoa(p.Line)
		}
		bad = append(bad, Problem{Place: place, Key: p.Path, What: p.Text})
	}
	return bad
}

// checkValue checks that a value can be one of type t.
func checkValue(v strictyaml.Value, t reflect.Type) {
	switch {
	case t == durationType:
		if text, ok := v.Plain("a duration with a unit, like 30s or 15m"); ok {
			if _, err := time.ParseDuration(text); err != nil {
				v.Wrong("%s is not a duration; write it with a unit, like 30s or 15m", strictyaml.Shown(text))
			}
		}
	case t.Kind() == reflect.Struct:
		var keys []string
		for i := range t.NumField() {
			keys = append(keys, t.Field(i).Tag.Get("mapstructure"))
		}
		o, _ := v.Object(keys...)
		for i, key := range keys {
			checkValue(o.At(key), t.Field(i).Type)
		}
	case t.Kind() == reflect.Slice:
		for _, item := range v.Items() {
			checkValue(item, t.Elem())
		}
	case t.Kind() == reflect.Int:
		v.Integer(math.MinInt, math.MaxInt)
	case t.Kind() == reflect.Bool:
		v.Boolean()
	default:
		v.Plain("text (in quotes)")
	}
}

// clientEnv are the variables of the people's command line, which one shell may have beside the daemon's.
var clientEnv = []string{"BREAKGLASS_SERVER", "BREAKGLASS_CA_FILE", "BREAKGLASS_IDENTITY", "BREAKGLASS_LEDGER_KEY", "BREAKGLASS_CONFIG"}

// UnknownEnv lists the variables of an environment that begin like keys of the configuration but cannot be set there.
func UnknownEnv(environ []string) []string {
	known := slices.Clone(clientEnv)
	for key := range Default().values() {
		known = append(known, "BREAKGLASS_"+strings.ToUpper(strings.ReplaceAll(key, ".", "_")))
	}
	var out []string
	for _, kv := range environ {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "BREAKGLASS_") && !slices.Contains(known, name) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}
