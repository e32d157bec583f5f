package desired

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/gitopsd/gitopsd/internal/desired/strict"
)

// SetLimits bound the files of coordinators/ that CheckEpochs compares with: how many, and bytes of each.
const (
	SetFilesMax = 2 * maxSets
	SetBytesMax = strict.MaxBytes
)

// CheckEpochs compares the coordinator sets of tree with those that a commit before it has, named as people know it, such as HEAD. An epoch names its
// voters once and for all, so what agents ignore or refuse is a problem here, before it is signed. Files that cannot be read say nothing: Load reports them.
func CheckEpochs(before Files, name string, tree fs.FS) []Problem {
	l := &loader{tree: tree, state: &State{}}
	var problems []Problem
	for _, set := range l.yamlFiles("coordinators", maxSets) {
		file := "coordinators/" + set + ".yaml"
		text, had := before[file]
		src, readable := l.read(file, strict.MaxBytes)
		if !had || !readable {
			continue
		}
		var was, is setFile
		_, bad := strict.Decode(file, []byte(text), setTable(&was))
		doc, more := strict.Decode(file, src, setTable(&is))
		if len(Bad(bad))+len(Bad(more)) == 0 {
			problems = append(problems, checkSuccession(doc, was, is, name)...)
		}
	}
	return problems
}

// checkSuccession judges one set that followed another of its name.
func checkSuccession(doc *strict.Doc, was, is setFile, name string) []Problem {
	next := fmt.Sprintf("write epoch: %d", was.epoch+1)
	same := sameVoters(was.voters, is.voters)
	if is.epoch == was.epoch {
		if same {
			return nil
		}
		return []Problem{doc.Problem("voters", next, "voters: in %s epoch %d has other voters, and an epoch names its voters once: hosts ignore another list and report it", name, was.epoch)}
	}
	if is.epoch < was.epoch {
		if same {
			next = fmt.Sprintf("write epoch: %d", was.epoch)
		}
		return []Problem{doc.Problem("epoch", next, "epoch: %d is lower than %d in %s, and hosts never go back to an earlier epoch", is.epoch, was.epoch, name)}
	}
	var warnings []Problem
	warn := func(at, hint, format string, args ...any) {
		p := doc.Problem(at, hint, format, args...)
		p.Warning = true
		warnings = append(warnings, p)
	}
	if is.epoch > was.epoch+1 {
		warn("epoch", next, "epoch: it rises from %d in %s to %d: hosts follow, but it is to rise by one, so that two people who both take the next one meet in git", was.epoch, name, is.epoch)
	}
	stay := 0
	for _, v := range was.voters {
		if slices.Contains(is.voters, v) {
			stay++
		}
	}
	if stay < len(was.voters)/2+1 {
		warn("voters", "while the set is well, replace one voter at a time, each with the next epoch",
			"voters: only %d of the %d in %s stay, fewer than a majority: that is for a set whose quorum is lost for good", stay, len(was.voters), name)
	}
	return warnings
}

// sameVoters compares without regard to order, which means nothing.
func sameVoters(a, b []Voter) bool {
	order := func(voters []Voter) []Voter {
		return slices.SortedFunc(slices.Values(voters), func(x, y Voter) int {
			return strings.Compare(string(x.Host)+"/"+x.Storage, string(y.Host)+"/"+y.Storage)
		})
	}
	return slices.Equal(order(a), order(b))
}
