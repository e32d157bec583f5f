package apply

import (
	"fmt"
	"path/filepath"

	"github.com/gitopsd/gitopsd/internal/apply/plan"
)

// plan.json is what Install does and what its undo needs to know: this header,
// then one planRecord a line.
type planHeader struct {
	Version   int      `json:"version"`
	Tag       string   `json:"tag"`
	Adopted   []string `json:"adopted,omitempty"`
	Installed int      `json:"installed"` // how many of its records tell that
	Units     int      `json:"units"`
}

// planRecord has one of its fields.
type planRecord struct {
	Installed *plan.Entry  `json:"installed,omitempty"`
	Unit      *plan.Extent `json:"unit,omitempty"`
	Removal   string       `json:"removal,omitempty"`
	Change    *savedChange `json:"change,omitempty"`
	Rmdir     string       `json:"rmdir,omitempty"`
	Kept      *plan.Kept   `json:"kept,omitempty"`
}

type savedChange struct {
	plan.Change
	Before plan.Attr `json:"before"`
}

func (r *run) planFile() string { return filepath.Join(r.a.deploymentDir(r.key), "plan.json") }

func (r *run) newInstaller(p *plan.Plan) *installer {
	in := &installer{a: r.a, plan: p}
	if r.c.release != nil {
		in.archive = r.c.release.dir
	}
	return in
}

// savePlan makes the plan durable.
func (r *run) savePlan(in *installer) error {
	p := in.plan
	head := planHeader{Version: plan.Version, Tag: p.Tag, Adopted: p.Adopted, Installed: len(p.Installed), Units: len(p.Units)}
	return r.a.writeRecords(r.planFile(), head, func(w *recordWriter) error {
		for i := range p.Installed {
			e := plainEntry(p.Installed[i])
			if err := w.put(planRecord{Installed: &e}); err != nil {
				return err
			}
		}
		for i := range p.Units {
			x := p.Units[i]
			x.At = plain(x.At)
			if err := w.put(planRecord{Unit: &x}); err != nil {
				return err
			}
		}
		for _, removed := range p.Removals {
			if err := w.put(planRecord{Removal: plain(removed)}); err != nil {
				return err
			}
		}
		return in.saveRest(w)
	})
}

func (in *installer) saveRest(w *recordWriter) error {
	for i, c := range in.plan.Changes {
		c.Path = plain(c.Path)
		if err := w.put(planRecord{Change: &savedChange{c, in.before[i]}}); err != nil {
			return err
		}
	}
	for _, dir := range in.plan.Rmdir {
		if err := w.put(planRecord{Rmdir: plain(dir)}); err != nil {
			return err
		}
	}
	for _, k := range in.plan.Kept {
		if err := w.put(planRecord{Kept: &plan.Kept{Path: plain(k.Path), Reason: k.Reason}}); err != nil {
			return err
		}
	}
	return nil
}

// savedInstall reads what savePlan wrote.
func (r *run) savedInstall() (*installer, error) {
	in, head := r.newInstaller(&plan.Plan{}), planHeader{}
	p := in.plan
	err := readRecords(r.planFile(), plan.Version, &head, func(rec planRecord) {
		switch {
		case rec.Installed != nil:
			if p.Installed == nil {
				p.Installed = make([]plan.Entry, 0, ahead(head.Installed))
			}
			p.Installed = append(p.Installed, verbatimEntry(*rec.Installed))
		case rec.Unit != nil:
			if p.Units == nil {
				p.Units = make([]plan.Extent, 0, ahead(head.Units))
			}
			rec.Unit.At = verbatim(rec.Unit.At)
			p.Units = append(p.Units, *rec.Unit)
		case rec.Removal != "":
			p.Removals = append(p.Removals, verbatim(rec.Removal))
		case rec.Change != nil:
			rec.Change.Path = verbatim(rec.Change.Path)
			p.Changes = append(p.Changes, rec.Change.Change)
			in.before = append(in.before, rec.Change.Before)
		case rec.Rmdir != "":
			p.Rmdir = append(p.Rmdir, verbatim(rec.Rmdir))
		case rec.Kept != nil:
			p.Kept = append(p.Kept, plan.Kept{Path: verbatim(rec.Kept.Path), Reason: rec.Kept.Reason})
		}
	})
	if err != nil {
		return nil, err
	}
	p.Tag, p.Adopted = head.Tag, head.Adopted
	if err := p.Check(); err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", r.planFile(), err)
	}
	return in, nil
}
