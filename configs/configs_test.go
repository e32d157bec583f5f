// Package configs holds commented samples of every file gitopsd reads. This test reads them all, so that none can grow stale.
package configs

import (
	"bytes"
	"encoding/json"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/gitopsd/gitopsd/internal/agent"
	"github.com/gitopsd/gitopsd/internal/configrepo/trust"
	"github.com/gitopsd/gitopsd/internal/desired"
)

var update = flag.Bool("update", false, "write the schemas anew")

func TestSampleRepositoryLoads(t *testing.T) {
	tree := os.DirFS("repository")
	state, problems := desired.Load(tree)
	for _, p := range problems {
		t.Error(p)
	}
	if len(state.Hosts) != 3 || len(state.Sets) != 1 || len(state.Groups) != 1 || len(state.Groups[0].Members) != 3 || len(state.Groups[0].Overlay) != 4 {
		t.Errorf("state = %+v", state)
	}
	src, err := fs.ReadFile(tree, trust.FileName)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := trust.Parse(src, func(name string) ([]byte, error) { return fs.ReadFile(tree, name) }); err != nil {
		t.Error(err)
	}
}

func TestSampleHostFileLoads(t *testing.T) {
	c, err := agent.LoadConfig("gitopsd.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.Host != "web-1" || len(c.Join) != 1 || c.Repository.Poll != agent.DefaultPoll {
		t.Errorf("config = %+v", c)
	}
}

// TestSamplesShowEveryKey keeps the samples whole: a key the decoder knows and no sample mentions would never be found by a reader.
func TestSamplesShowEveryKey(t *testing.T) {
	files := map[string]string{"fleet": "repository/fleet.yaml", "trust": "repository/trust.yaml", "host": "repository/hosts/web-1.yaml",
		"coordinators": "repository/coordinators/web.yaml", "group": "repository/shop/production/website/group.yaml"}
	for kind, file := range files {
		schema, _ := desired.Schema(kind)
		mentionsAll(t, file, schema)
	}
	mentionsAll(t, "gitopsd.yaml", agent.ConfigSchema())
}

// hidden are keys of what this release refuses anyway.
var hidden = map[string]bool{"blueGreenDeploymentConfiguration": true}

func mentionsAll(t *testing.T, file string, schema map[string]any) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for key := range schema["properties"].(map[string]any) {
		if !strings.Contains(string(text), key) && !hidden[key] {
			t.Errorf("%s does not mention %s", file, key)
		}
	}
}

// TestReferenceNamesEveryKey of every file, those inside others too. What is refused by name stands in limits.md instead.
func TestReferenceNamesEveryKey(t *testing.T) {
	const reference = "../docs/reference/"
	schemas := map[string][]map[string]any{"gitopsd-yaml.md": {agent.ConfigSchema()}}
	for _, kind := range desired.Kinds() {
		schema, _ := desired.Schema(kind)
		schemas["repository.md"] = append(schemas["repository.md"], schema)
	}
	limits, err := os.ReadFile(reference + "limits.md")
	if err != nil {
		t.Fatal(err)
	}
	for file, all := range schemas {
		text, err := os.ReadFile(reference + file)
		if err != nil {
			t.Fatal(err)
		}
		eachKey(t, all, func(key string) bool {
			word := regexp.MustCompile(`\b` + regexp.QuoteMeta(key) + `\b`)
			if !word.Match(text) && !word.Match(limits) {
				t.Errorf("%s does not name %s", file, key)
			}
			return word.Match(text)
		})
	}
}

// eachKey visits every key that a file of the schemas may have, and those inside it unless visit returns false.
func eachKey(t *testing.T, schemas any, visit func(key string) bool) {
	t.Helper()
	text, err := json.Marshal(schemas)
	if err != nil {
		t.Fatal(err)
	}
	var all any
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	walkKeys(all, visit)
}

func walkKeys(node any, visit func(key string) bool) {
	switch node := node.(type) {
	case []any:
		for _, inner := range node {
			walkKeys(inner, visit)
		}
	case map[string]any:
		properties, isObject := node["properties"].(map[string]any)
		for key, inner := range properties {
			if visit(key) {
				walkKeys(inner, visit)
			}
		}
		for name, inner := range node {
			if name != "properties" || !isObject {
				walkKeys(inner, visit)
			}
		}
	}
}

func TestSchemasAreThoseOfTheDecoder(t *testing.T) {
	schemas := map[string]map[string]any{"gitopsd.schema.json": agent.ConfigSchema()}
	for _, kind := range desired.Kinds() {
		schemas["repository/schema/"+kind+".schema.json"], _ = desired.Schema(kind)
	}
	for name, schema := range schemas {
		want, err := json.MarshalIndent(schema, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, '\n')
		if *update {
			if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(name, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is stale (%v): run go test ./configs -update", name, err)
		}
	}
}
