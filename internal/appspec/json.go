package appspec

import (
	"encoding/json"
	"math"
)

// The JSON of a Spec has the keys of an appspec.yml, defaults filled in. Values that are not of the expected type, and that the agent
// takes all the same, appear as they were read.
type specJSON struct {
	Version            any                    `json:"version"`
	OS                 OS                     `json:"os"`
	FileExistsBehavior *FileExistsBehavior    `json:"file_exists_behavior"`
	Files              []fileJSON             `json:"files"`
	Permissions        []permissionJSON       `json:"permissions"`
	Hooks              map[Event][]scriptJSON `json:"hooks"`
}

type fileJSON struct {
	Source      any `json:"source"`
	Destination any `json:"destination"`
}

type permissionJSON struct {
	Object  string       `json:"object"`
	Pattern any          `json:"pattern"`
	Except  []any        `json:"except"`
	Type    []string     `json:"type"`
	Owner   any          `json:"owner"`
	Group   any          `json:"group"`
	Mode    *Mode        `json:"mode"`
	ACLs    []string     `json:"acls"`
	Context *contextJSON `json:"context"`
}

type contextJSON struct {
	User  any     `json:"user"`
	Type  any     `json:"type"`
	Range *string `json:"range"`
}

type scriptJSON struct {
	Location string  `json:"location"`
	RunAs    *string `json:"runas"`
	Sudo     any     `json:"sudo"`
	Timeout  any     `json:"timeout"`
}

// raw is the value as it was read; text for a Spec that was not read from a file.
func raw(v *value, text string) any {
	switch {
	case v != nil:
		return v
	case text == "":
		return nil
	}
	return text
}

// MarshalJSON gives the checked file: {version, os, file_exists_behavior, files, permissions, hooks}.
func (s *Spec) MarshalJSON() ([]byte, error) {
	out := specJSON{Version: any(s.version), OS: s.OS, Files: []fileJSON{}, Permissions: []permissionJSON{}, Hooks: make(map[Event][]scriptJSON)}
	if s.version == nil {
		out.Version = 0.0
	}
	if s.FileExistsBehavior != "" {
		out.FileExistsBehavior = &s.FileExistsBehavior
	}
	for _, f := range s.Files {
		out.Files = append(out.Files, fileJSON{Source: raw(f.source, f.Source), Destination: raw(f.destination, f.Destination)})
	}
	for _, p := range s.Permissions {
		out.Permissions = append(out.Permissions, p.json())
	}
	for event, scripts := range s.Hooks {
		list := make([]scriptJSON, 0, len(scripts))
		for _, script := range scripts {
			list = append(list, script.json())
		}
		out.Hooks[event] = list
	}
	return json.Marshal(out)
}

func (p Permission) json() permissionJSON {
	out := permissionJSON{Object: p.Object, Pattern: p.Pattern, Except: []any{}, Type: p.Types, Owner: raw(p.owner, p.Owner), Group: raw(p.group, p.Group)}
	if p.pattern.isTrue() {
		out.Pattern = p.pattern
	}
	for i, glob := range p.Except {
		if i < len(p.except) {
			out.Except = append(out.Except, p.except[i])
			continue
		}
		out.Except = append(out.Except, glob)
	}
	if p.Mode != "" {
		out.Mode = &p.Mode
	}
	if p.ACLs != nil {
		out.ACLs = make([]string, 0, len(p.ACLs))
	}
	for _, ace := range p.ACLs {
		out.ACLs = append(out.ACLs, ace.String())
	}
	if x := p.Context; x != nil {
		out.Context = &contextJSON{User: raw(x.user, x.User), Type: raw(x.typ, x.Type)}
		if x.Range != nil {
			text := x.Range.String()
			out.Context.Range = &text
		}
	}
	return out
}

func (s Script) json() scriptJSON {
	out := scriptJSON{Location: s.Location, Sudo: s.sudo, Timeout: s.TimeoutSeconds}
	if s.TimeoutSeconds == math.MaxInt64 && s.timeout != nil && s.timeout.kind != kindFloat {
		out.Timeout = rubyInt(rubyText(s.timeout)) // what was capped
	}
	if s.sudo == nil && s.Sudo {
		out.Sudo = true
	}
	if s.HasRunAs || s.RunAs != "" {
		out.RunAs = &s.RunAs
	}
	return out
}
