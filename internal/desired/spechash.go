package desired

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"strconv"
)

// SpecVersion is the version of the spec hash's encoding. It may change only together with a raft entry that all members support.
const SpecVersion = "spec/1"

// SpecHash names what a group's hosts run: 64 hexadecimal digits over a canonical encoding of the group's id and names, the bundle's digest and type, and
// whatever else changes what ends up on a host or how it gets there through hooks and traffic. A deployment starts exactly when this hash changes.
//
// Comments, folder, locators, size and piece index of the bundle, selectors, waves, bake, checks, alarms, minimums, deadlines, supersede, coordinators,
// suspend, removed and attempt are left out: changing those never starts a deployment.
//
// The encoding is SpecVersion, then NAME and VALUE of every field in this fixed order as netstrings (`LENGTH:BYTES,`); a list begins with its length.
func SpecHash(g Group) string {
	h := sha256.New()
	put(h, SpecVersion)
	field := func(name, value string) { put(h, name); put(h, value) }
	field("id", string(g.ID))
	field("applicationName", g.ApplicationName)
	field("deploymentGroupName", g.Name)
	field("digest", string(g.Revision.Digest))
	field("bundleType", string(g.Revision.BundleType))
	field("fileExistsBehavior", g.Policy.FileExistsBehavior)
	field("deploymentType", g.Policy.Style.Type)
	field("deploymentOption", g.Policy.Style.Option)
	field("applicationStopFailure", g.Policy.ApplicationStopFailure)
	field("traffic", "") // load balancers, once they are supported
	field("overlay", strconv.Itoa(len(g.Overlay)))
	for _, f := range g.Overlay {
		field("path", f.Path)
		field("mode", strconv.FormatUint(uint64(f.Mode.Perm()), 8))
		field("sha256", f.SHA256)
	}
	field("secrets", "0") // versions of secrets, once they are supported
	return hex.EncodeToString(h.Sum(nil))
}

// put writes one netstring. A hash never refuses a write.
func put(w io.Writer, s string) {
	_, _ = io.WriteString(w, strconv.Itoa(len(s))+":"+s+",")
}
