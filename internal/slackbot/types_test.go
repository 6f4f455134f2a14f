package slackbot_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/breakglassd/breakglass/internal/bgtest/slacksdk"
)

// Slack publishes the types of what it takes. As literals, the golden messages and forms must be of them, to the last field: a name
// that Slack does not know, or a value of the wrong type, is an error of the compiler.
func TestMessagesAreOfSlacksOwnTypes(t *testing.T) {
	modules, node := slacksdk.Modules(t)
	files, err := filepath.Glob("testdata/*.golden.json")
	must(t, err)
	var source bytes.Buffer
	source.WriteString("import type {KnownBlock, ModalView} from '@slack/types';\n")
	n := 0
	add := func(name, kind string, value json.RawMessage) {
		n++
		fmt.Fprintf(&source, "// %s\nexport const x%d: %s = %s;\n", name, n, kind, value)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		must(t, err)
		name := strings.TrimSuffix(filepath.Base(file), ".golden.json")
		var top map[string]json.RawMessage
		must(t, json.Unmarshal(raw, &top))
		switch {
		case strings.HasPrefix(name, "form-"):
			add(name, "ModalView", raw)
		case top["blocks"] != nil:
			add(name, "KnownBlock[]", top["blocks"])
		default: // several messages by name
			for key, raw := range top {
				var one struct{ Blocks json.RawMessage }
				must(t, json.Unmarshal(raw, &one))
				if one.Blocks == nil {
					t.Fatalf("%s has no message %s", file, key)
				}
				add(name+" "+key, "KnownBlock[]", one.Blocks)
			}
		}
	}
	if n < 60 {
		t.Errorf("only %d messages and forms were found", n)
	}
	said, err := compile(t, node, modules, source.Bytes())
	if err != nil {
		t.Errorf("the compiler: %v\n%s", err, said)
	}

	// It sees mistakes: otherwise this test proves nothing.
	for _, bad := range []string{`{"type": "section", "text": {"type": "mrkdwn", "text": "x", "verbatm": true}}`,
		`{"type": "rich_text", "elements": [
		{"type": "rich_text_list", "style": "bullet", "offset": 0, "elements": []}]}`} {
		if said, err := compile(t, node, modules, []byte("import type {KnownBlock} from '@slack/types';\nexport const x: KnownBlock[] = "+
			"["+bad+"];\n")); err == nil {
			t.Errorf("%s passes\n%s", bad, said)
		}
	}
}

// compile checks a file of TypeScript.
func compile(t *testing.T, node, modules string, source []byte) (string, error) {
	t.Helper()
	dir := t.TempDir()
	must(t, os.Symlink(modules, filepath.Join(dir, "node_modules")))
	file := filepath.Join(dir, "messages.ts")
	must(t, os.WriteFile(file, source, 0o600))
	said, err := exec.CommandContext(t.Context(), node, filepath.Join(modules, "typescript/bin/tsc"), "--noEmit", "--strict",
		"--skipLibCheck", "--module", "nodenext",
		"--moduleResolution", "nodenext", "--typeRoots", filepath.Join(dir, "none"), file).CombinedOutput()
	return string(said), err
}
