package demo

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"
)

// photoBytes is the incompressible content of a release: 16 MiB, so that there are pieces to deal to peers.
const (
	photoBytes = 4 << 20
	photos     = 4
)

// Names of the demo's group.
const (
	groupFolder = "shop/demo/website"
	groupName   = "website"
	groupID     = "01DEMOWEBSITE000"
	bucket      = "releases"
)

// bakeTime is how long the first host of a release is watched before the rest follow.
const bakeTime = 2 * time.Second

// release is one version of the web application.
type release struct {
	name   string
	broken string // what its /health says instead of ok
}

const appspecText = `version: 0.0
os: linux
files:
  - source: content
    destination: /srv/website
hooks:
  ApplicationStop:
    - {location: hooks/stop.sh, timeout: 60}
  ApplicationStart:
    - {location: hooks/start.sh, timeout: 60}
  ValidateService:
    - {location: hooks/validate.sh, timeout: 60}
`

// The hooks find gitopsd, whose hidden verb is the application, through PATH. Each host's port is a tag of its inventory file.
const (
	stopText = `#!/bin/sh
exec gitopsd demo-app --stop --pid-file "$GITOPSD_DESTINATION_ROOT/website.pid"
`
	startText = `#!/bin/sh
exec gitopsd demo-app --start --listen "127.0.0.1:$GITOPSD_TAG_PORT" --root "$GITOPSD_DESTINATION_ROOT/srv/website" \
  --pid-file "$GITOPSD_DESTINATION_ROOT/website.pid" --log-file "$GITOPSD_DESTINATION_ROOT/website.log"
`
	validateText = `#!/bin/sh
echo "asking release $(cat "$GITOPSD_DESTINATION_ROOT/srv/website/release") for its health"
exec gitopsd demo-app --check "http://127.0.0.1:$GITOPSD_TAG_PORT/health" --expect ok
`
	indexText = `<!doctype html>
<title>The shop</title>
<h1>The shop, release %s</h1>
<p>Deployed by gitopsd. This page lies in the bundle as content/index.html.</p>
`
)

// files are the release's, without its photos.
func (r release) files() map[string]string {
	health := "ok"
	if r.broken != "" {
		health = r.broken
	}
	return map[string]string{
		"appspec.yml":        appspecText,
		"content/release":    r.name + "\n",
		"content/health":     health + "\n",
		"content/index.html": fmt.Sprintf(indexText, r.name),
		"hooks/stop.sh":      stopText,
		"hooks/start.sh":     startText,
		"hooks/validate.sh":  validateText,
	}
}

// write puts the release's folder at dir, over that of another release. Every release has photos of its own: the same name and number give the same bytes.
func (r release) write(dir string) error {
	for name, text := range r.files() {
		mode := fs.FileMode(0o644)
		if filepath.Ext(name) == ".sh" {
			mode = 0o755
		}
		if err := writeFile(filepath.Join(dir, filepath.FromSlash(name)), []byte(text), mode); err != nil {
			return err
		}
	}
	blob := make([]byte, photoBytes)
	for i := range photos {
		var seed [32]byte
		copy(seed[:], fmt.Sprintf("photo %d of %s", i, r.name))
		if _, err := rand.NewChaCha8(seed).Read(blob); err != nil {
			return fmt.Errorf("cannot draw the photos of release %s: %w", r.name, err)
		}
		if err := writeFile(filepath.Join(dir, "content", "photos", fmt.Sprintf("%d.jpg", i+1)), blob, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// writeFile writes a file and the folders above it.
func writeFile(path string, data []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("cannot write: %w", err)
	}
	if err := os.WriteFile(path, data, mode); err != nil {
		return fmt.Errorf("cannot write: %w", err)
	}
	return nil
}

// packed is a release in S3.
type packed struct {
	release
	key           string
	digest, index string
	size          int64 // bytes of the archive
	payload       int64 // bytes of it that are moved: all but the index at its end, which is moved by itself
}

// policy is how the group rolls out.
type policy struct {
	config string // deploymentConfigName
	canary bool   // one host first
	window int    // hosts that may be down at once; 0 when all may
}

// everywhere is the policy of the first release.
func everywhere() policy { return policy{config: "CodeDeployDefault.AllAtOnce"} }

// careful is the policy of every later one, with CodeDeploy's arithmetic for so many hosts.
func careful(hosts int) policy {
	if hosts < 4 {
		return policy{config: "CodeDeployDefault.OneAtATime", canary: true, window: 1}
	}
	return policy{config: "CodeDeployDefault.HalfAtATime", canary: true, window: hosts / 2}
}

// groupText is the website's group.yaml.
func groupText(r packed, p policy) string {
	waves := ""
	if p.canary {
		waves = fmt.Sprintf("waves: [{hosts: 1, bake: %s}, {rest: true}]\n", bakeTime)
	}
	return fmt.Sprintf(`# The file CI edits and you revert.
id: %s
applicationName: website
deploymentGroupName: %s
coordinators: demo
targets: {tagSets: [[role=web]]}
revision:
  revisionType: S3
  s3Location: {bucket: %s, key: %s, bundleType: tar.zst}
  digest: %s
  size: %d
  index: %s
deploymentConfigName: %s
%sautoRollbackConfiguration: {enabled: true, events: [DEPLOYMENT_FAILURE]}
`, groupID, groupName, bucket, r.key, r.digest, r.size, r.index, p.config, waves)
}
