package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/breakglassd/breakglass/internal/cli/exit"
	"github.com/breakglassd/breakglass/internal/strictyaml"
)

// settings is what can be configured. Each has a flag, an environment variable and a key of the configuration file, which win
// over each other in this order.
type settings struct {
	Server    string `yaml:"server"`
	CAFile    string `yaml:"caFile"`
	Identity  string `yaml:"identity"`
	LedgerKey string `yaml:"ledgerKey"`
}

func (s *settings) fields() []*string {
	return []*string{&s.Server, &s.CAFile, &s.Identity, &s.LedgerKey}
}

// loadSettings merges all sources.
func (a *app) loadSettings() (settings, error) {
	out := a.flags
	env := settings{a.env("BREAKGLASS_SERVER"), a.env("BREAKGLASS_CA_FILE"), a.env("BREAKGLASS_IDENTITY"), a.env("BREAKGLASS_LEDGER_KEY")}
	path, named := a.config, true
	if path == "" {
		path = a.env("BREAKGLASS_CONFIG")
	}
	if path == "" {
		named = false
		path = filepath.Join(a.store.Base("XDG_CONFIG_HOME", ".config"), "breakglass", "config.yaml")
	}
	file, err := readSettings(path)
	if errors.Is(err, fs.ErrNotExist) && !named {
		err = nil
	}
	if err != nil {
		return out, exit.Usage("configuration file %s: %v", path, err)
	}
	for i, f := range out.fields() {
		for _, s := range []settings{env, file} {
			if *f == "" {
				*f = *s.fields()[i]
			}
		}
	}
	for _, p := range []*string{&out.CAFile, &out.Identity} {
		if rest, ok := strings.CutPrefix(*p, "~/"); ok {
			*p = filepath.Join(a.env("HOME"), rest)
		}
	}
	return out, nil
}

func readSettings(path string) (settings, error) {
	var s settings
	b, err := os.ReadFile(path)
	if err != nil {
		return s, err
	}
	return parseSettings(b)
}

// parseSettings reads the configuration strictly: one document, known keys, text values.
func parseSettings(b []byte) (settings, error) {
	var s settings
	known := []string{"server", "caFile", "identity", "ledgerKey"}
	var keys map[string]yaml.Node
	if err := yaml.Unmarshal(b, &keys); err == nil { // else the strict reading says what is wrong
		for _, k := range slices.Sorted(maps.Keys(keys)) {
			if slices.Contains(known, k) {
				continue
			}
			hint := "allowed here: " + strings.Join(known, ", ")
			if near := strictyaml.Closest(k, known); near != "" {
				hint = "did you mean " + near + "?"
			}
			return settings{}, fmt.Errorf("line %d: unknown key %q; %s", keys[k].Line, k, hint)
		}
	}
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(&s); err != nil && !errors.Is(err, io.EOF) {
		return settings{}, err
	}
	if err := d.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		return settings{}, errors.New("there is more than one YAML document")
	}
	return s, nil
}
