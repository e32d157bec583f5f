package desired

import (
	"encoding/json"
	"strings"

	"github.com/gitopsd/gitopsd/internal/desired/strict"
)

// Kinds lists the files of a config repository that have a schema of their own.
func Kinds() []string { return []string{"coordinators", "fleet", "group", "host", "trust"} }

// Schema is the JSON Schema of one kind of file, made from the table that decodes it; false for a kind that is not in Kinds.
func Schema(kind string) (map[string]any, bool) {
	switch kind {
	case "coordinators":
		return strict.Schema(kind, "gitopsd: coordinators/NAME.yaml", setTable(new(setFile))), true
	case "fleet":
		return strict.Schema(kind, "gitopsd: fleet.yaml", fleetTable(new(fleetFile))), true
	case "group":
		return strict.Schema(kind, "gitopsd: group.yaml", groupTable(new(groupFile))), true
	case "host":
		return strict.Schema(kind, "gitopsd: hosts/NAME.yaml", hostTable(new(hostFile))), true
	case "trust":
		return strict.Schema(kind, "gitopsd: trust.yaml", trustTable(new(trustFile))), true
	}
	return nil, false
}

// schemaFile is where a config repository keeps a schema for editors.
func schemaFile(kind string) string { return "schema/" + kind + ".schema.json" }

// modeline points an editor from a file to its schema.
func modeline(file, kind string) string {
	return "# yaml-language-server: $schema=" + strings.Repeat("../", strings.Count(file, "/")) + schemaFile(kind) + "\n"
}

// schemaFiles prints every schema.
func schemaFiles() (Files, error) {
	files := Files{}
	for _, kind := range Kinds() {
		schema, _ := Schema(kind)
		text, err := json.MarshalIndent(schema, "", "  ")
		if err != nil {
			return nil, err
		}
		files[schemaFile(kind)] = string(text) + "\n"
	}
	return files, nil
}
