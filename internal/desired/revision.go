package desired

import (
	"cmp"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/desired/strict"
)

var (
	bucketForm     = strict.NewPattern(`^[A-Za-z0-9][A-Za-z0-9._-]*$`, 2, 255)
	repositoryForm = strict.NewPattern(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}/[A-Za-z0-9_.-]{1,100}$`, 3, 201)
)

func revisionTable(r *revisionFile) strict.Type {
	text := func(into *string, max int) strict.Type { return strict.String(into, strict.Text(max)) }
	free := func(into *string) strict.Type { return strict.String(into) }
	digest := strict.Match(digestForm, "a digest (sha256: and 64 hexadecimal digits)")
	kind := func(into *string) strict.Key {
		return strict.May("bundleType", strict.Enum(into, "tar.zst", "zip", "tgz", "tar"), "by default what the name ends with")
	}
	return strict.Object("",
		strict.Need("revisionType", strict.Enum(&r.kind, "S3", "GitHub", "Forge", "Https", "Directory", "Repository"), "where the bundle is"),
		strict.May("s3Location", strict.Optional(&r.s3, func(l *s3File) strict.Type {
			return strict.Object("",
				strict.Need("bucket", strict.String(&l.bucket, strict.Match(bucketForm, "a bucket's name")), ""),
				strict.Need("key", text(&l.key, 1024), ""),
				kind(&l.bundleType),
				strict.May("version", free(&l.version), "of the object, in a bucket with versions"),
				strict.May("eTag", free(&l.eTag), ""),
			)
		}), ""),
		strict.May("gitHubLocation", strict.Optional(&r.github, func(l *struct{ repository, commit string }) strict.Type {
			return strict.Object("", strict.Need("repository", strict.String(&l.repository, strict.Match(repositoryForm, "OWNER/NAME")), "OWNER/NAME"), strict.Need("commitId", strict.String(&l.commit, CommitRule()), ""))
		}), ""),
		strict.May("forgeLocation", strict.Optional(&r.forge, func(l *forgeFile) strict.Type {
			return strict.Object("",
				strict.May("forge", strict.Enum(&l.forge, "GitHub", "GitLab", "Gitea"), "by default what the host's name tells; Gitea is Forgejo too"),
				strict.Need("url", strict.String(&l.url, urlRule()), "of the repository, as people open it"),
				strict.Need("commitId", strict.String(&l.commit, CommitRule()), ""),
				strict.May("bundleType", strict.Enum(&l.bundleType, "tgz", "zip"), "tgz by default"),
			)
		}), ""),
		strict.May("httpsLocation", strict.Optional(&r.https, func(l *struct{ url, bundleType string }) strict.Type {
			return strict.Object("", strict.Need("url", strict.String(&l.url, urlRule()), ""), kind(&l.bundleType))
		}), ""),
		strict.May("directoryLocation", strict.Optional(&r.directory, func(l *struct{ path, bundleType string }) strict.Type {
			return strict.Object("", strict.Need("path", strict.String(&l.path, AbsoluteRule()), "of the archive on the hosts that read it"), kind(&l.bundleType))
		}), ""),
		strict.May("repositoryLocation", strict.Optional(&r.inside, func(l *struct{ path string }) strict.Type {
			return strict.Object("", strict.Need("path", strict.String(&l.path, folderRule()), "of a folder in the config repository"))
		}), ""),
		strict.May("digest", strict.String(&r.digest, digest), "sha256: and what sha256sum prints for the archive"),
		strict.May("size", strict.Size(&r.size, bundle.MaxArchiveBytes), "of the archive, in bytes"),
		strict.May("index", strict.String(&r.index, digest), "digest of the piece index"),
	)
}

// build checks what the table could not, and makes the Revision. What a folder of the repository holds is for the loader to add.
func (r revisionFile) build(doc *strict.Doc) (Revision, []Problem) {
	out := Revision{Type: r.kind, Digest: bundle.Digest(r.digest), Size: r.size, Index: bundle.Digest(r.index)}
	if r.kind == "" {
		return out, nil // the table has said so
	}
	problems := append(r.checkLocations(doc), r.checkPins(doc)...)
	var at, named, name string
	switch {
	case r.kind == "S3" && r.s3 != nil:
		at, named, name = "revision.s3Location", r.s3.bundleType, r.s3.key
		out.S3 = &S3Location{Bucket: r.s3.bucket, Key: r.s3.key, Version: r.s3.version, ETag: r.s3.eTag}
	case r.kind == "Https" && r.https != nil:
		at, named, name = "revision.httpsLocation", r.https.bundleType, r.https.url
		out.Https = &HttpsLocation{URL: r.https.url}
	case r.kind == "Directory" && r.directory != nil:
		at, named, name = "revision.directoryLocation", r.directory.bundleType, r.directory.path
		out.Directory = &DirectoryLocation{Path: r.directory.path}
	case r.kind == "GitHub" && r.github != nil:
		named, out.GitHub = string(bundle.TypeTgz), &GitHubLocation{Repository: r.github.repository, Commit: r.github.commit}
	case r.kind == "Forge" && r.forge != nil:
		named, out.Forge = cmp.Or(r.forge.bundleType, string(bundle.TypeTgz)), &ForgeLocation{Forge: r.forge.software(), URL: r.forge.url, Commit: r.forge.commit}
		if out.Forge.Forge == "" {
			problems = append(problems, doc.Problem("revision.forgeLocation", "add forge: GitHub, GitLab or Gitea", "revision.forgeLocation: the name of the host does not tell which forge it is"))
		}
	case r.kind == "Repository" && r.inside != nil:
		// Our own deterministic tar, whose mtimes mean nothing; a reader finds out by itself that it is not compressed.
		named, out.Repository = string(bundle.TypeTarZst), &RepositoryLocation{Path: r.inside.path}
	default:
		return out, problems
	}
	out.BundleType = bundle.Type(named)
	if named == "" {
		guess, ok := bundle.TypeOfName(name)
		if out.BundleType = guess; !ok {
			problems = append(problems, doc.Problem(at, "add bundleType: tar.zst, zip, tgz or tar", "%s: the name %.100q does not tell the archive's type", at, name))
		}
	}
	return out, problems
}

// placeholderDigest stands in a new group.yaml until there is a bundle.
var placeholderDigest = bundle.Digest("sha256:" + strings.Repeat("0", 64))

// checkPlaceholder refuses the digest that is no archive's yet, unless the group is suspended: its hosts would look for the bundle for ever.
func (r Revision) checkPlaceholder(doc *strict.Doc, p Policy) []Problem {
	if r.Digest != placeholderDigest || p.Suspend {
		return nil
	}
	return []Problem{doc.Problem("revision.digest", "gitopsd bundle push --group writes a bundle's own; until then write suspend: true", "revision.digest: sha256:000... is the placeholder of a new group, and no archive's digest")}
}

// checkPins demands what pins the bytes, and no more than the revision's type can have.
func (r revisionFile) checkPins(doc *strict.Doc) (problems []Problem) {
	say := func(at, suggestion, format string, args ...any) {
		problems = append(problems, doc.Problem(at, suggestion, format, args...))
	}
	forge, inside := r.kind == "GitHub" || r.kind == "Forge", r.kind == "Repository"
	if (forge || inside) && doc.Has("revision.index") {
		say("revision.index", "remove it", "revision.index does not belong to revisionType %s: it is read whole", r.kind)
	}
	if inside {
		return problems // the commit itself pins a folder
	}
	if !doc.Has("revision.digest") {
		say("revision", "add digest: sha256: and what sha256sum prints for the archive", `revision: key "digest" is missing`)
	}
	if doc.Has("revision.size") && r.size == 0 {
		say("revision.size", "", "revision.size: an archive is never empty")
	}
	if forge && !doc.Has("revision.size") {
		say("revision", "add the archive's size in bytes, which forges do not tell", `revision: key "size" is missing`)
	}
	return problems
}

// software is which forge it is; "" if neither the file nor the host's name tells.
func (f forgeFile) software() string {
	if f.forge != "" {
		return f.forge
	}
	u, err := url.Parse(f.url)
	if err != nil {
		return ""
	}
	host := strings.ToLower(u.Hostname())
	for _, known := range []struct{ part, forge string }{{"gitlab", "GitLab"}, {"github", "GitHub"}, {"gitea", "Gitea"}, {"forgejo", "Gitea"}, {"codeberg", "Gitea"}} {
		if strings.Contains(host, known.part) {
			return known.forge
		}
	}
	return ""
}

// checkLocations demands exactly the location of the revision's type.
func (r revisionFile) checkLocations(doc *strict.Doc) []Problem {
	var problems []Problem
	locations := []struct {
		kind, key string
		set       bool
	}{
		{"S3", "s3Location", r.s3 != nil}, {"GitHub", "gitHubLocation", r.github != nil}, {"Forge", "forgeLocation", r.forge != nil},
		{"Https", "httpsLocation", r.https != nil}, {"Directory", "directoryLocation", r.directory != nil}, {"Repository", "repositoryLocation", r.inside != nil},
	}
	for _, l := range locations {
		switch {
		case l.kind == r.kind && !l.set && !doc.Has("revision."+l.key):
			problems = append(problems, doc.Problem("revision", "add it", "revision: revisionType %s needs %s", r.kind, l.key))
		case l.kind != r.kind && l.set:
			problems = append(problems, doc.Problem("revision."+l.key+"#", "remove it, or write revisionType: "+l.kind, "revision: %s does not belong to revisionType %s", l.key, r.kind))
		}
	}
	return problems
}

// alarmsTable and the tables below describe what the agent does not do yet; the values are judged, and refused where they would change behaviour.
func alarmsTable(a *alarmsFile) strict.Type {
	return strict.Object("",
		strict.May("enabled", strict.Bool(&a.enabled), "false keeps the list and ignores it"),
		strict.May("ignorePollAlarmFailure", strict.Bool(&a.ignorePoll), "true: go on when an alarm cannot be read"),
		strict.May("alarms", strict.List(&a.alarms, 0, 10, func(f *alarmFile) strict.Type {
			return strict.Object("",
				strict.Need("name", strict.String(&f.name, strict.Text(255)), ""),
				strict.May("prometheus", strict.Optional(&f.prometheus, func(p *struct {
					url, query string
					max        string
				}) strict.Type {
					return strict.Object("",
						strict.Need("url", strict.String(&p.url, urlRule()), ""),
						strict.Need("query", strict.String(&p.query, strict.Text(4096)), ""),
						strict.Need("max", strict.Parsed(&p.max, "a number", "", map[string]any{"type": "number"}, parseNumber), "above this the alarm is on"),
					)
				}), ""),
			)
		}), ""),
	)
}

func parseNumber(text string) (string, error) {
	if _, err := strconv.ParseFloat(text, 64); err != nil {
		return "", fmt.Errorf("%.40q is not a number", text)
	}
	return text, nil
}

func triggerTable(t *triggerFile) strict.Type {
	return strict.Object("",
		strict.Need("triggerName", strict.String(&t.name, strict.Text(255)), ""),
		strict.Need("triggerEvents", strict.List(&t.events, 1, 10, func(s *string) strict.Type {
			return strict.Enum(s, "DeploymentStart", "DeploymentSuccess", "DeploymentFailure", "DeploymentStop", "DeploymentRollback", "DeploymentReady",
				"InstanceStart", "InstanceSuccess", "InstanceFailure", "InstanceReady")
		}), ""),
		strict.May("triggerTargetArn", strict.String(&t.target, strict.Text(1024)), ""),
		strict.May("webhook", strict.Optional(&t.webhook, func(w *struct{ url string }) strict.Type {
			return strict.Object("", strict.Need("url", strict.String(&w.url, urlRule()), ""))
		}), ""),
	)
}

func balancersTable(b *balancersFile) strict.Type {
	named := func(n *struct{ name string }) strict.Type {
		return strict.Object("", strict.Need("name", strict.String(&n.name, strict.Text(255)), ""))
	}
	return strict.Object("",
		strict.May("elbInfoList", strict.List(&b.elb, 0, 10, named), ""),
		strict.May("targetGroupInfoList", strict.List(&b.target, 0, 10, named), ""),
	)
}

func blueGreenTable(b *blueGreenFile) strict.Type {
	part := func(into *struct {
		action  string
		minutes int
	}, key, minutes string, actions ...string) strict.Type {
		keys := []strict.Key{strict.May(key, strict.Enum(&into.action, actions...), "")}
		if minutes != "" {
			keys = append(keys, strict.May(minutes, strict.Int(&into.minutes, 0, 2880), ""))
		}
		return strict.Object("", keys...)
	}
	return strict.Object("",
		strict.May("terminateBlueInstancesOnDeploymentSuccess", part(&b.terminate, "action", "terminationWaitTimeInMinutes", "TERMINATE", "KEEP_ALIVE"), ""),
		strict.May("deploymentReadyOption", part(&b.ready, "actionOnTimeout", "waitTimeInMinutes", "CONTINUE_DEPLOYMENT", "STOP_DEPLOYMENT"), ""),
		strict.May("greenFleetProvisioningOption", part(&b.provision, "action", "", "DISCOVER_EXISTING", "COPY_AUTO_SCALING_GROUP"), ""),
	)
}
