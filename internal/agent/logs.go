package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/appspec"
	"github.com/gitopsd/gitopsd/internal/desired"
	"github.com/gitopsd/gitopsd/internal/desired/strict"
	"github.com/gitopsd/gitopsd/internal/status"
)

// deploymentsNamed bounds the deployments that an error names.
const deploymentsNamed = 5

// Logs implements status.Source. Output that nobody has is an error, which names what there is.
func (r *reader) Logs(ctx context.Context, q status.LogQuery, w io.Writer) error {
	if err := knownEvent(q.Event); err != nil {
		return err
	}
	group, _, err := r.find(ctx, q.Group)
	if err != nil {
		return err
	}
	q.Group = group.ID
	var hosts []string
	for _, h := range group.Hosts {
		hosts = append(hosts, h.Name)
	}
	if q.Host == "" && r.ask != nil && len(hosts) > 0 && !slices.Equal(hosts, []string{r.self}) {
		err = r.everyLog(ctx, q, hosts, w)
	} else {
		err = r.oneLog(ctx, q, group, hosts, w)
	}
	if unknown := r.unknownDeployment(ctx, q, group); err != nil && unknown != nil {
		return unknown
	}
	return err
}

// unknownOutput says what of a question there is not.
func unknownOutput(format string, args ...any) error {
	return &status.UnknownOutputError{Message: fmt.Sprintf(format, args...)}
}

// knownEvent refuses an event whose hooks never run.
func knownEvent(event string) error {
	if event == "" || appspec.Event(event).Scriptable() {
		return nil
	}
	var known []string
	for _, e := range appspec.Events() {
		if e.Scriptable() {
			known = append(known, string(e))
		}
	}
	return unknownOutput("cannot show hook output of event %.60q: no hooks run in it; %s", event, strict.DidYouMean(event, known))
}

// unknownDeployment says that a group has no deployment of the id that was asked for, and which it has; nil where it has it, or that cannot be told.
func (r *reader) unknownDeployment(ctx context.Context, q status.LogQuery, group status.Group) error {
	if q.Deployment == "" {
		return nil
	}
	history, err := r.History(ctx, q.Group)
	if err != nil {
		return nil
	}
	var known []string
	for _, d := range history.Deployments {
		if d.ID == q.Deployment {
			return nil
		}
		if len(known) < deploymentsNamed {
			known = append(known, d.ID)
		}
	}
	if len(known) == 0 {
		return unknownOutput("cannot show hook output of deployment %.60q: %s has had no deployment yet", q.Deployment, group.Group)
	}
	return unknownOutput("cannot show hook output of deployment %.60q: %s has none of that id; its newest are %s, and `gitopsd history %s` lists them all",
		q.Deployment, group.Group, strings.Join(known, ", "), group.Group)
}

// oneLog prints the output of one host, which may have left the group since.
func (r *reader) oneLog(ctx context.Context, q status.LogQuery, group status.Group, hosts []string, w io.Writer) error {
	known := slices.Contains(hosts, q.Host)
	if world := r.source.current(); world != nil && !known {
		_, known = world.State.Hosts[desired.HostName(q.Host)]
	}
	switch {
	case q.Host == "" || q.Host == r.self:
		return r.localLogs(ctx, q, w)
	case r.ask == nil:
		return unknownOutput("cannot show hook output of %s: this is %s", q.Host, r.self)
	case !known:
		return unknownOutput("cannot show hook output of %.60q: it is no host of %s; %s", q.Host, group.Group, strict.NearOrKnown(q.Host, hosts))
	}
	return r.ask(q.Host).Logs(ctx, q, w)
}

// everyLog prints the output of each host under a heading. It is an error when no host has any.
func (r *reader) everyLog(ctx context.Context, q status.LogQuery, hosts []string, w io.Writer) error {
	out := &headed{w: w}
	var errs []error
	for _, host := range hosts {
		out.begin(host)
		q.Host = host
		err := error(nil)
		if host == r.self {
			err = r.localLogs(ctx, q, out)
		} else {
			err = r.ask(host).Logs(ctx, q, out)
		}
		switch {
		case out.err != nil:
			return out.err
		case err != nil:
			out.note(fmt.Sprintf("(%v)\n", err))
			errs = append(errs, err)
		}
	}
	if out.any {
		return out.err
	}
	return fmt.Errorf("cannot show hook output: none of %d hosts has any; the first says: %w", len(hosts), errs[0])
}

// headed puts a heading before what each host prints. Until one has printed something, notes of those that have nothing are kept back.
type headed struct {
	w       io.Writer
	waiting strings.Builder // headings and notes not printed yet
	any     bool            // output was printed
	err     error           // of w
}

// begin writes the heading of the next host.
func (h *headed) begin(host string) {
	fmt.Fprintf(&h.waiting, "==> %s <==\n", host)
	if h.any {
		h.flush()
	}
}

// note says why a host has printed nothing, or no more.
func (h *headed) note(text string) {
	h.waiting.WriteString(text)
	if h.any {
		h.flush()
	}
}

func (h *headed) flush() {
	if h.err == nil {
		_, h.err = io.WriteString(h.w, h.waiting.String())
	}
	h.waiting.Reset()
}

// Write prints a host's output.
func (h *headed) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	h.any = true
	if h.flush(); h.err != nil {
		return 0, h.err
	}
	n, err := h.w.Write(p)
	h.err = err
	return n, err
}

// localLogs prints what hooks of this host wrote.
func (r *reader) localLogs(ctx context.Context, q status.LogQuery, w io.Writer) error {
	release, key, err := r.logged(q)
	if err != nil {
		return fmt.Errorf("cannot find hook output of %s on %s: %w", q.Group, r.self, err)
	}
	if key.DeploymentID == "" {
		return fmt.Errorf("no deployment of this group left hook output on %s", r.self)
	}
	out := w
	if q.Deployment == "" { // this host's newest need not be the group's
		out = &titled{w: w, title: status.LogTitle(key.DeploymentID)}
	}
	n, err := r.copyLog(key, q.Event, out)
	switch {
	case release == nil && errors.Is(err, apply.ErrUnknown):
		if r.tookPart(ctx, q) {
			return r.removed(key)
		}
		return fmt.Errorf("deployment %s of this group left no hook output on %s", q.Deployment, r.self)
	case err == nil && n == 0:
		return r.nothingLogged(release, key, q.Event)
	}
	return err
}

// titled puts a line before what is written, if anything is.
type titled struct {
	w     io.Writer
	title string // "" once it is written
}

// Write prints output, after the title.
func (t *titled) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if t.title != "" {
		if _, err := io.WriteString(t.w, t.title); err != nil {
			return 0, err
		}
		t.title = ""
	}
	return t.w.Write(p)
}

// logged finds the deployment whose output is asked for: the newest that has a release, or the one that is named. Its output may outlive its release, which is then nil.
func (r *reader) logged(q status.LogQuery) (*apply.Release, apply.Key, error) {
	releases, err := r.applier.Releases(q.Group)
	if err != nil {
		return nil, apply.Key{}, err
	}
	for _, release := range releases {
		if release.Deployed && (q.Deployment == "" || release.DeploymentID == q.Deployment) {
			return &release, apply.Key{GroupID: q.Group, DeploymentID: release.DeploymentID, Attempt: release.Attempt}, nil
		}
	}
	return nil, apply.Key{GroupID: q.Group, DeploymentID: q.Deployment, Attempt: 1}, nil
}

// tookPart says whether this host ran events of the deployment that is asked for, as far as the group's history tells.
func (r *reader) tookPart(ctx context.Context, q status.LogQuery) bool {
	history, err := r.History(ctx, q.Group)
	if err != nil {
		return false
	}
	for _, d := range history.Deployments {
		for _, h := range d.Hosts {
			if d.ID == q.Deployment && h.Name == r.self && len(h.Events) > 0 {
				return true
			}
		}
	}
	return false
}

// removed says that a deployment's output was here once.
func (r *reader) removed(key apply.Key) error {
	return fmt.Errorf("the hook output of deployment %s is no longer on %s: old output is removed, of which `retention` in its gitopsd.yaml keeps more", key.DeploymentID, r.self)
}

// copyLog prints the output of one event's hooks, or of all.
func (r *reader) copyLog(key apply.Key, event string, w io.Writer) (int64, error) {
	log, err := r.applier.Log(key, event)
	if err != nil {
		return 0, fmt.Errorf("cannot read hook output of %s on %s: %w", key.DeploymentID, r.self, err)
	}
	defer log.Close()
	return io.Copy(w, log)
}

// nothingLogged says which events of a deployment left output, when the one that was asked for left none.
func (r *reader) nothingLogged(release *apply.Release, key apply.Key, event string) error {
	var with []string
	for _, e := range appspec.Events() {
		if n, err := r.copyLog(key, string(e), io.Discard); err == nil && n > 0 && e.Scriptable() {
			with = append(with, string(e))
		}
	}
	if len(with) > 0 {
		return fmt.Errorf("deployment %s ran no hook of %s on %s; there is output of %s", key.DeploymentID, event, r.self, strings.Join(with, ", "))
	}
	switch hooks, known := hasHooks(release); {
	case known && !hooks:
		return fmt.Errorf("no hook of deployment %s left output on %s", key.DeploymentID, r.self)
	case known && release.WasGood: // what a hook runs is in its output even when it prints nothing
		return r.removed(key)
	}
	return fmt.Errorf("there is no hook output of deployment %s on %s: no hook was run, or its output was old and removed, of which `retention` in its gitopsd.yaml keeps more", key.DeploymentID, r.self)
}

// hasHooks says whether a release has scripts that a deployment of it runs; known is false without one. Those of ApplicationStop the deployment after it runs.
func hasHooks(release *apply.Release) (hooks, known bool) {
	if release == nil {
		return false, false
	}
	spec, err := readAppSpec(release.Dir)
	if err != nil {
		return false, false
	}
	for event, scripts := range spec.Hooks {
		hooks = hooks || len(scripts) > 0 && event != appspec.ApplicationStop
	}
	return hooks, true
}
