package inventory

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// authenticationConfig is what matters of a structured authentication configuration (apiserver.config.k8s.io).
type authenticationConfig struct {
	JWT []struct {
		Issuer struct {
			URL string `yaml:"url"`
		} `yaml:"issuer"`
		ClaimMappings struct {
			Username claim `yaml:"username"`
			Groups   claim `yaml:"groups"`
		} `yaml:"claimMappings"`
	} `yaml:"jwt"`
}

type claim struct {
	Claim      string `yaml:"claim"`
	Prefix     string `yaml:"prefix"`
	Expression string `yaml:"expression"`
}

func parseAuthentication(text []byte) (authenticationConfig, error) {
	var out authenticationConfig
	var kind struct {
		Kind string `yaml:"kind"`
	}
	if len(text) == 0 {
		return out, nil
	}
	if err := errors.Join(yaml.Unmarshal(text, &kind), yaml.Unmarshal(text, &out)); err != nil {
		return out, err
	}
	if kind.Kind != "AuthenticationConfiguration" {
		return out, fmt.Errorf("its kind is %q, not AuthenticationConfiguration", kind.Kind)
	}
	return out, nil
}

// programs are the parts of a control plane whose command line says how they can be reached.
var programs = []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd"}

// ParseCommand reads the command line of a part of the control plane, found anywhere in words: after a shell or a wrapper, too.
// ok is false if it is none.
func ParseCommand(words []string, where string) (c Component, ok bool) {
	for i, w := range words {
		name := path.Base(w)
		if !slices.Contains(programs, name) {
			continue
		}
		c = Component{Name: name, Where: where, Flags: map[string][]string{}}
		rest := words[i+1:]
		for k := 0; k < len(rest); k++ {
			flag, isFlag := strings.CutPrefix(rest[k], "-")
			if !isFlag {
				continue
			}
			flag = strings.TrimPrefix(flag, "-")
			value := "true"
			if name, given, found := strings.Cut(flag, "="); found {
				flag, value = name, given
			} else if k+1 < len(rest) && !strings.HasPrefix(rest[k+1], "-") {
				value = rest[k+1]
				k++
			}
			flag = strings.ReplaceAll(flag, "_", "-")
			c.Flags[flag] = append(c.Flags[flag], value)
		}
		return c, true
	}
	return Component{}, false
}

// ParseGiven reads a file about the control plane that an operator gives because the API does not show it: the manifest of a
// static pod, or a command line, one word or flag on a line or all on one.
func ParseGiven(name string, text []byte) ([]Component, error) {
	var pod struct {
		Kind string `yaml:"kind"`
		Spec struct {
			Containers []struct {
				Command []string `yaml:"command"`
				Args    []string `yaml:"args"`
			} `yaml:"containers"`
		} `yaml:"spec"`
	}
	var out []Component
	if err := yaml.Unmarshal(text, &pod); err == nil && pod.Kind == "Pod" {
		for _, c := range pod.Spec.Containers {
			if found, ok := ParseCommand(slices.Concat(c.Command, c.Args), "the given file "+name); ok {
				out = append(out, found)
			}
		}
	} else if found, ok := ParseCommand(strings.Fields(strings.ReplaceAll(string(text), "\x00", "\n")), "the given file "+name); ok {
		out = append(out, found)
	}
	for i := range out {
		out[i].Given = true
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s shows the command line of none of %s: give a pod's manifest, or a command line", name, strings.Join(programs, ", "))
	}
	return out, nil
}

// ParseKubeProxy reads the configuration file of kube-proxy.
func ParseKubeProxy(text []byte) (*KubeProxy, error) {
	var out struct {
		Metrics string `yaml:"metricsBindAddress"`
		Healthz string `yaml:"healthzBindAddress"`
	}
	if err := yaml.Unmarshal(text, &out); err != nil {
		return nil, err
	}
	return &KubeProxy{MetricsBindAddress: out.Metrics, HealthzBindAddress: out.Healthz}, nil
}

// ParseAWSAuth reads the mapRoles and mapUsers of EKS's ConfigMap aws-auth: one line "arn: group" for each, and the user names
// that it gives, by ARN. Names that are made at sign-in ({{SessionName}}) are left out.
func ParseAWSAuth(texts ...string) (groups []string, users map[string]string, err error) {
	users = map[string]string{}
	for _, text := range texts {
		var entries []struct {
			Role   string   `yaml:"rolearn"`
			User   string   `yaml:"userarn"`
			Name   string   `yaml:"username"`
			Groups []string `yaml:"groups"`
		}
		if err := yaml.Unmarshal([]byte(text), &entries); err != nil {
			return nil, nil, err
		}
		for _, e := range entries {
			for _, g := range e.Groups {
				groups = append(groups, e.Role+e.User+": "+g)
			}
			if e.Name != "" && !strings.Contains(e.Name, "{{") {
				users[e.Role+e.User] = e.Name
			}
		}
	}
	slices.Sort(groups)
	return slices.Compact(groups), users, nil
}
