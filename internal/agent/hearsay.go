package agent

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/gitopsd/gitopsd/internal/configrepo"
	"github.com/gitopsd/gitopsd/internal/status"
)

// factRefused is the gossiped refusal of the newest tip by a host that polls git. Most hosts never see a tip that was refused: it is what they tell operators of it,
// and decides nothing.
const factRefused = "refused"

// refusalBytesMax keeps a told refusal within one gossiped fact.
const refusalBytesMax = 1000

// toldRefusal is the wire form.
type toldRefusal struct {
	Version  int    `json:"v"`
	Commit   string `json:"commit"`
	Reason   string `json:"reason"`
	Sentence string `json:"sentence"`
}

// tellRefusal encodes a refusal for the fleet; nil takes an earlier one back.
func tellRefusal(r *configrepo.Refusal) []byte {
	if r == nil {
		return nil
	}
	told := toldRefusal{Version: 1, Commit: r.Commit, Reason: string(r.Reason), Sentence: strings.ToValidUTF8(clip(r.Sentence, refusalBytesMax), "")}
	for {
		text, err := json.Marshal(told)
		if err != nil {
			return nil
		}
		if len(text) <= refusalBytesMax {
			return text
		}
		told.Sentence = strings.ToValidUTF8(clip(told.Sentence, len(told.Sentence)*3/4), "")
	}
}

// heardRefusals reads what other hosts told, by host. What cannot be read, or gives a reason that is not known, is left out: the reason becomes the kind of a notice,
// which terminals show and metrics count by.
func heardRefusals(facts map[string][]byte, self string) map[string]configrepo.Refusal {
	heard := map[string]configrepo.Refusal{}
	for host, text := range facts {
		var told toldRefusal
		if host == self || json.Unmarshal(text, &told) != nil || told.Version != 1 || !commitPattern.MatchString(told.Commit) {
			continue
		}
		reason := configrepo.Reason(told.Reason)
		if !reason.Known() && reason != reasonRewound {
			continue
		}
		heard[host] = configrepo.Refusal{Commit: told.Commit, Reason: reason, Sentence: strings.ToValidUTF8(clip(told.Sentence, refusalBytesMax), "")}
	}
	return heard
}

// refusals lists what this host and others refuse, each commit once: this host's own word first, then that of the first host by name. A commit that this host has
// accepted is not refused, whoever says so, unless git went back to it.
func (r *reader) refusals() []status.Notice {
	seen := map[string]bool{}
	if own := r.source.refusal(); own != nil {
		seen[own.Commit] = true // the source's own notice tells it
	}
	var all []status.Notice
	if r.heard == nil {
		return nil
	}
	heard := r.heard()
	hosts := make([]string, 0, len(heard))
	for host := range heard {
		hosts = append(hosts, host)
	}
	slices.Sort(hosts)
	for _, host := range hosts {
		refused := heard[host]
		if seen[refused.Commit] || refused.Reason != reasonRewound && r.accepts(refused.Commit) {
			continue
		}
		seen[refused.Commit] = true
		all = append(all, status.Notice{Kind: string(refused.Reason), Host: host, Message: refused.Sentence})
	}
	return all
}

// accepts says whether a commit is in this host's verified history.
func (r *reader) accepts(commit string) bool {
	w := r.source.current()
	if w == nil {
		return false
	}
	inside, err := r.repo().IsAncestor(commit, w.Commit.ID)
	return err == nil && inside
}

// refusalOf says why this host itself refuses a commit.
func (r *reader) refusalOf(commit string) (string, bool) {
	own := r.source.refusal()
	if own == nil || own.Commit != commit || r.accepts(commit) { // an older one, that a mirror still offers or the branch went back to
		return "", false
	}
	return own.Sentence, true
}

// hearsay is what another host refuses of a commit, or with "" of anything newer than what is accepted here; "" when no host does. A mirror that lags has nothing newer.
func (r *reader) hearsay(commit string) string {
	if commit == "" {
		for _, told := range r.refusals() {
			if told.Kind != string(configrepo.ReasonBehind) {
				return told.Host + " says: " + told.Message
			}
		}
		return ""
	}
	if r.heard == nil || r.accepts(commit) {
		return ""
	}
	heard := r.heard()
	for _, host := range slices.Sorted(maps.Keys(heard)) {
		if heard[host].Commit == commit {
			return host + " says: " + heard[host].Sentence
		}
	}
	return ""
}

// withHearsay adds to a sentence what other hosts say. It changes no outcome.
func (r *reader) withHearsay(sentence, commit string) string {
	if told := r.hearsay(commit); told != "" {
		return strings.TrimPrefix(sentence+"; "+told, "; ")
	}
	return sentence
}

// doubted says whether a refusal stands in the way of a commit, or with "" of the newest, for this host or for another: then this host should look for itself.
func (r *reader) doubted(commit string) bool {
	own := r.source.refusal()
	return own != nil && (commit == "" || own.Commit == commit) || r.hearsay(commit) != ""
}
