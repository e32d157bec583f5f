package desired

import (
	"strings"
	"testing"
)

// TestTagsThatMatchNoHostAreWarnedOf where they stand, with what may be meant.
func TestTagsThatMatchNoHostAreWarnedOf(t *testing.T) {
	const message = ": warning: targets match no host of the inventory: "
	cases := []struct{ targets, want string }{
		{"targets: {tagSets: [[role=web]]}", ""},
		{"targets: {tagSets: [[role=web, role=to-come]]}", ""},
		{"targets: {tagSets: [[role=wbe]]}", "g/group.yaml:5:22" + message + "none has tag role=wbe (did you mean role=web?)"},
		{"targets: {tagSets: [[role=web], [name=web-04]]}", "g/group.yaml:5:34" + message + "none has tag name=web-04 (did you mean name=web-4?)"},
		{"targets: {tagSets: [[role=web-04]]}", "g/group.yaml:5:22" + message + "none has tag role=web-04 (add the tag to hosts/NAME.yaml, or correct it here)"},
		{"targets: {tagSets: [[zone=web-04]]}", "g/group.yaml:5:22" + message + "none has tag zone=web-04 (add the tag"},
		{"targets: {tagSets: [[roll=web]]}", "none has tag roll=web (did you mean role=web?)"},
		{"targets: {tagSets: [[roll=wbe]]}", "none has tag roll=wbe (did you mean role=web?)"},
		{"targets: {tagSets: [[roll=database]]}", "none has tag roll=database (did you mean the key role?)"},
		{"targets: {tagSets: [[roll=]]}", "none has tag roll= (did you mean role=?)"},
		{"targets: {tagSets: [[=wbe]]}", "none has tag =wbe (did you mean =web?)"},
		{"targets: {tagSets: [[x=1, role=wbe]]}", "g/group.yaml:5:27" + message + "none has tag x=1 or role=wbe (did you mean role=web?)"},
		{"targets: {tagSets: [[role=web], [role=db]]}", "g/group.yaml:5:20" + message + "every set matches hosts, but no host is in all of them"},
		{"ec2TagFilters: [{Key: x}, {Key: role, Value: wbe}]", "none has tag x= or role=wbe (did you mean role=web?)"},
		{"onPremisesTagSet: {onPremisesTagSetList: [[{Key: role, Value: web}], [{Key: name, Value: web-04}]]}", "g/group.yaml:5:71" + message + "none has tag name=web-04 (did you mean name=web-4?)"},
		{"ec2TagSet: [[{Key: role, Value: wbe}]]\nonPremisesTagSet: [[{Key: role, Value: web}]]", ""},
		{"targets: {tagSets: [[role=wbe]]}\nremoved: true", ""},
	}
	for _, c := range cases {
		files := Files{"g/group.yaml": strings.Replace(minimal, "targets: {tagSets: [[role=web]]}", c.targets, 1)}
		for name, content := range fleet(t) {
			if !strings.HasPrefix(name, "shop/") && !strings.HasPrefix(name, "hosts/") {
				files[name] = content
			}
		}
		for i, tags := range []map[string]string{{"role": "web", "name": "web-4"}, {"role": "web", "name": "web-1"}, {"role": "db", "name": "db-1"}} {
			made, err := HostFile(testHost("web-"+string(rune('1'+i)), i+1, tags))
			if err != nil {
				t.Fatal(err)
			}
			for name, content := range made {
				files[name] = content
			}
		}
		state, problems := Load(tree(files))
		said := texts(problems)
		if strings.Contains(c.targets, "removed") {
			said = strings.ReplaceAll(said, "removed", "") // which is refused for other reasons
		}
		if c.want == "" && strings.Contains(said, "match no host") || c.want != "" && (!strings.Contains(said, c.want) || len(problems) != 1 || len(state.Groups) != 1) {
			t.Errorf("%s\n%swant %s", c.targets, said, c.want)
		}
	}
}

// TestAnInventoryThatIsNotWholeSaysNothingOfTags since what is missing in it may be what is meant.
func TestAnInventoryThatIsNotWholeSaysNothingOfTags(t *testing.T) {
	files := fleet(t)
	files[groupPath] = strings.Replace(files[groupPath], "role=web", "role=wbe", 1)
	files["hosts/web-4.yaml"] = "tags: {role: wbe}\n"
	if _, problems := Load(tree(files)); strings.Contains(texts(problems), "match no host") {
		t.Errorf("problems:\n%s", texts(problems))
	}
	delete(files, "hosts/web-4.yaml")
	if _, problems := Load(tree(files)); !strings.Contains(texts(problems), "match no host") {
		t.Errorf("problems:\n%s", texts(problems))
	}
}

func TestTargetProblemsOfANewGroup(t *testing.T) {
	state, _ := Load(tree(fleet(t)))
	for want, o := range map[string]GroupOptions{
		`there is no host "web-01" in hosts/ (did you mean web-1?)`: {Hosts: []HostName{"web-1", "web-01"}},
		"none has tag role=wbe (did you mean role=web?)":            {TagSets: [][]string{{"role=wbe"}}},
		"none has tag role=x (":                                     {Application: "x"},
	} {
		o.ID, o.Name = "01JD3K9V8Q", "n"
		if o.Application == "" {
			o.Application = "web"
		}
		if problems := TargetProblems(o, state); len(problems) != 1 || !strings.Contains(texts(problems), want) {
			t.Errorf("want %s, got:\n%s", want, texts(problems))
		}
	}
	if problems := TargetProblems(GroupOptions{ID: "01JD3K9V8Q", Name: "n", Application: "web"}, state); len(problems) != 0 {
		t.Errorf("problems:\n%s", texts(problems))
	}
}
