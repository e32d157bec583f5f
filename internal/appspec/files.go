package appspec

import "strings"

// files judges the section files.
func (c *checker) files(section *value, s *Spec) []File {
	items, ok := elements(section)
	if !ok {
		c.fail(section.at, "begin each element with a dash", "files must be a list of mappings with source and destination, not %s", describe(section))
		return nil
	}
	var files []File
	for _, item := range items {
		if f, ok := c.file(item, section.at); ok {
			files = append(files, f)
			s.unusable = append(s.unusable, f.unusable()...)
		}
	}
	return files
}

// file judges one element of files.
func (c *checker) file(item *value, section Position) (File, bool) {
	at := item.place(section)
	switch {
	case item.isNil(), item.kind != kindMap && item.kind != kindString && item.kind != kindSymbol:
		c.fail(at, "write source: and destination:", "an element of files must be a mapping with source and destination, not %s", describe(item))
		return File{}, false
	case item.kind == kindMap:
		c.knownKeys(item, "an element of files", fileKeys)
	}
	source, destination := indexed(item, "source"), indexed(item, "destination")
	if source.isNil() {
		c.fail(at, lostItemHint(item), "The deployment failed because the application specification file specifies a destination file, but no source file. Update the files section of the AppSpec file, and then try again.")
		return File{}, false
	}
	if destination.isNil() {
		c.fail(at, lostItemHint(item), "The deployment failed because the application specification file specifies only a source file (%s). Add the name of the destination file to the files section of the AppSpec file, and then try again.", shown(source))
		return File{}, false
	}
	if item.kind != kindMap {
		c.warn(at, WarnPath, "the element of files is the string %q; CodeDeploy's agent finds the words source and destination in it and takes them for the paths", clip(item.text))
	}
	f := File{Source: rubyText(source), Destination: rubyText(destination), Position: at, source: source, destination: destination}
	c.warnFile(f)
	return f, true
}

// lostItemHint helps with an element that is a string and no mapping.
func lostItemHint(item *value) string {
	if item.kind == kindMap {
		return ""
	}
	return "the element is a string: write source: and destination: with a blank after each colon"
}

// unusable lists the paths at which Install is bound to fail.
func (f File) unusable() []Problem {
	var problems []Problem
	for _, path := range []struct {
		name string
		v    *value
	}{{"source", f.source}, {"destination", f.destination}} {
		switch {
		case path.v.kind != kindString:
			problems = append(problems, Problem{Position: path.v.place(f.Position), Message: "the " + path.name + " of a file must be a path, not " + describe(path.v) + " (" + shown(path.v) + ")", Hint: "put it in quotes"})
		case strings.Contains(path.v.text, "\x00"):
			problems = append(problems, Problem{Position: path.v.place(f.Position), Message: "the " + path.name + " of a file holds a NUL character"})
		}
	}
	return problems
}
