package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os/user"
	"path"
	"path/filepath"
	"strings"

	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/appspec"
	"github.com/gitopsd/gitopsd/internal/desired"
)

// errFenced is a refusal of this host's own file.
var errFenced = errors.New("this host's fence")

// allows says whether this host's own file allows a group and its origin; otherwise the error is errFenced. It is asked before the first byte of a bundle is, and
// again before each deployment, as the file may have changed in between.
func (f FenceConfig) allows(g desired.Group) error {
	if !allowed(f.Groups, g.Folder) {
		return fmt.Errorf("%w.groups does not allow group %s", errFenced, g.Folder)
	}
	if !allowed(f.Origins, locationOf(g.Revision)) {
		return fmt.Errorf("%w.origins does not allow %s", errFenced, placeOf(g.Revision))
	}
	return nil
}

// fencedRelease says whether this host's own file allows what the appspec file of an unpacked release asks for. It is asked at the preflight and again right
// before the point of no return, as the file may have changed in between.
func (d *deployer) fencedRelease(key apply.Key) error {
	fence := d.fence()
	if len(fence.Users)+len(fence.Destinations) == 0 {
		return nil
	}
	releases, err := d.applier.Releases(key.GroupID)
	if err != nil {
		return err
	}
	for _, r := range releases {
		if keyOf(r) != key {
			continue
		}
		spec, err := readAppSpec(r.Dir)
		if err != nil {
			return err
		}
		return fencedSpec(fence, spec)
	}
	return fmt.Errorf("cannot hold deployment %s against this host's fence: its release is gone", key.DeploymentID)
}

// readAppSpec reads the appspec file of an unpacked release under the names that apply tries.
func readAppSpec(dir string) (*appspec.Spec, error) {
	for _, name := range []string{"appspec.yml", "appspec.yaml"} {
		src, err := readMost(filepath.Join(dir, name), appspec.MaxSourceBytes)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read %s: %w", name, err)
		}
		spec, _, err := appspec.Parse(src, appspec.Options{FileName: name})
		if err != nil {
			return nil, err
		}
		return spec, nil
	}
	return nil, errors.New("the release has no appspec file")
}

// fencedSpec compares an appspec file with the fence.
func fencedSpec(fence FenceConfig, spec *appspec.Spec) error {
	for _, f := range spec.Files {
		if where := path.Clean("/" + f.Destination); !allowed(fence.Destinations, where) {
			return fmt.Errorf("this host's fence.destinations does not allow %s", where)
		}
	}
	for _, p := range spec.Permissions {
		if where := path.Clean("/" + p.Object); !allowed(fence.Destinations, where) {
			return fmt.Errorf("this host's fence.destinations does not allow permissions of %s", where)
		}
	}
	if len(fence.Users) == 0 {
		return nil
	}
	own, err := user.Current()
	if err != nil {
		return fmt.Errorf("cannot hold hooks against fence.users: %w", err)
	}
	for event, scripts := range spec.Hooks {
		for _, s := range scripts {
			as := own.Username
			if s.HasRunAs {
				as = s.RunAs
			}
			if !allowed(fence.Users, as) {
				return fmt.Errorf("this host's fence.users does not allow %s of %s to run as %s", s.Location, event, as)
			}
		}
	}
	return nil
}

// allowed matches a value against glob patterns; none means no limit. A pattern that ends in /** matches the folder before it and everything below.
func allowed(patterns []string, value string) bool {
	if len(patterns) == 0 {
		return true
	}
	for _, p := range patterns {
		if below, ok := strings.CutSuffix(p, "/**"); ok && (value == below || strings.HasPrefix(value, below+"/")) {
			return true
		}
		if ok, err := path.Match(p, value); err == nil && ok {
			return true
		}
	}
	return false
}
