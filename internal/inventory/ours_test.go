package inventory

import "testing"

// What group mode documents is no alarm to a scan that knows the access policy, and any binding beside it is.
func TestGroupModeIsKnownAndNothingBesideIt(t *testing.T) {
	rules, defaults := shipped(t)
	rescue, other := Subject{Kind: Group, Name: "breakglass:api-rescue"}, Subject{Kind: Group, Name: "breakglass:other"}
	documented := bind(rescue.Name, "", "cluster-admin", rescue)
	for _, c := range []struct {
		name     string
		told     []string
		bindings []Binding
		want     int
	}{
		{"documented", []string{rescue.Name}, []Binding{documented}, ExitClean},
		{"documented, and the scan is not told", nil, []Binding{documented}, ExitFindings},
		{"of another profile", []string{other.Name}, []Binding{documented}, ExitFindings},
		{"a second binding of the group", []string{rescue.Name}, []Binding{documented, bind("more", "", "cluster-admin", rescue)}, ExitFindings},
		{"another in the same binding", []string{rescue.Name}, []Binding{bind(rescue.Name, "", "cluster-admin", rescue, bob)}, ExitFindings},
		{"another binding", []string{rescue.Name}, []Binding{documented, bind("more", "", "cluster-admin", bob)}, ExitFindings},
	} {
		s := all(&Snapshot{ClusterRoles: defaults.ClusterRoles(), ClusterBindings: c.bindings})
		a := judgedBy(s, Options{Rules: rules, Defaults: defaults, OurGroups: c.told, Now: now})
		if got := ExitCode(a.Findings, Critical); got != c.want {
			t.Errorf("%s: exit code %d, want %d: %+v", c.name, got, c.want, a.Findings)
		}
	}
}
