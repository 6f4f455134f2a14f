package controlplane

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"
)

// authenticationConfig is a structured authentication configuration (apiserver.config.k8s.io): every field that Kubernetes 1.37
// knows, also those that no door asks for, so that a field that is not here is one that was not understood.
type Authentication struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"`
	JWT        []jwt  `yaml:"jwt"`
	Anonymous  *struct {
		Enabled    bool `yaml:"enabled"`
		Conditions []struct {
			Path string `yaml:"path"`
		} `yaml:"conditions"`
	} `yaml:"anonymous"`

	Unknown string // what in it was not understood
}

// jwt is one issuer of tokens.
type jwt struct {
	Issuer struct {
		URL                  string   `yaml:"url"`
		DiscoveryURL         string   `yaml:"discoveryURL"`
		CertificateAuthority string   `yaml:"certificateAuthority"`
		Audiences            []string `yaml:"audiences"`
		AudienceMatchPolicy  string   `yaml:"audienceMatchPolicy"`
		EgressSelectorType   string   `yaml:"egressSelectorType"`
	} `yaml:"issuer"`
	ClaimValidationRules []struct {
		Claim         string `yaml:"claim"`
		RequiredValue string `yaml:"requiredValue"`
		Expression    string `yaml:"expression"`
		Message       string `yaml:"message"`
	} `yaml:"claimValidationRules"`
	ClaimMappings struct {
		Username Claim `yaml:"username"`
		Groups   Claim `yaml:"groups"`
		UID      struct {
			Claim      string `yaml:"claim"`
			Expression string `yaml:"expression"`
		} `yaml:"uid"`
		Extra []struct {
			Key             string `yaml:"key"`
			ValueExpression string `yaml:"valueExpression"`
		} `yaml:"extra"`
	} `yaml:"claimMappings"`
	UserValidationRules []struct {
		Expression string `yaml:"expression"`
		Message    string `yaml:"message"`
	} `yaml:"userValidationRules"`
}

// RefusesSystemNames reports whether a rule refuses the user names, and one the groups, of Kubernetes itself (system:…).
func (i jwt) RefusesSystemNames() (users, groups bool) {
	for _, rule := range i.UserValidationRules {
		users = users || noUsers().MatchString(rule.Expression)
		if m := noGroups().FindStringSubmatch(rule.Expression); m != nil {
			groups = groups || m[1] == m[2]
		}
	}
	return users, groups
}

// A claim says what of a token becomes a user's name or groups.
type Claim struct {
	Claim      string `yaml:"claim"`
	Prefix     string `yaml:"prefix"`
	Expression string `yaml:"expression"`
}

func ParseAuthentication(text []byte) (Authentication, error) {
	var out, strict Authentication
	if len(text) == 0 {
		return out, nil
	}
	if err := yaml.Unmarshal(text, &out); err != nil {
		return out, err
	}
	if out.Kind != "AuthenticationConfiguration" {
		return out, fmt.Errorf("its kind is %q, not AuthenticationConfiguration", out.Kind)
	}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&strict); err != nil {
		out.Unknown = strings.Join(strings.Fields(err.Error()), " ")
	} else if err := d.Decode(&strict); !errors.Is(err, io.EOF) {
		out.Unknown = "a second document follows, which the API server does not read"
	}
	return out, nil
}

// guards reports whether a prefix keeps names from being those of Kubernetes itself: "s" before "ystem:masters" does not.
func Guards(prefix string) bool {
	return prefix != "" && !strings.HasPrefix("system:", prefix) && !strings.HasPrefix(prefix, "system:")
}

const (
	celText   = `("[^"\\]*"|'[^'\\]*')`
	celSource = `\(*\s*claims(?:\.\??\w+|\[\??(?:"[^"]*"|'[^']*')\])+\)?(?:\.orValue\((?:\[\]|""|'')\))?\)?(?:\.split\((?:"[^"]*"|'[^']*')\))?`
)

var (
	celPlain   = pattern(`^\s*` + celSource + `\s*$`)
	celPrefix  = pattern(`^\s*` + celText + `\s*\+\s*` + celSource + `\s*$`)
	celMap     = pattern(`^\s*` + celSource + `\.map\(\s*(\w+)\s*,\s*` + celText + `\s*\+\s*(\w+)\s*\)\s*$`)
	noUsers    = pattern(`^\s*!\s*user\.username\.startsWith\(["']system:["']\)\s*$`)
	noGroups   = pattern(`^\s*user\.groups\.all\(\s*(\w+)\s*,\s*!\s*(\w+)\.startsWith\(["']system:["']\)\s*\)\s*$`)
	celUnquote = strings.NewReplacer(`"`, "", "'", "")
)

// reads says what an expression makes of a claim, if it is of one of the few forms that can be told without running it.
// known is false for all others: those are for a person to read.
func (c Claim) Reads() (prefixed, known bool) {
	if m := celPrefix().FindStringSubmatch(c.Expression); m != nil {
		return Guards(celUnquote.Replace(m[1])), true
	}
	if m := celMap().FindStringSubmatch(c.Expression); m != nil && m[1] == m[3] {
		return Guards(celUnquote.Replace(m[2])), true
	}
	return false, celPlain().MatchString(c.Expression)
}
