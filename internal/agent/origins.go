package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/bundle/origin"
	"github.com/gitopsd/gitopsd/internal/bundle/store"
	"github.com/gitopsd/gitopsd/internal/desired"
	"github.com/gitopsd/gitopsd/internal/swarm"
)

// tokenBytesMax bounds a token's file.
const tokenBytesMax = 16 << 10

// origin opens a revision's first source of bytes; nil on a host without a route to it.
func (b *bundles) origin(r desired.Revision) (swarm.Origin, error) {
	c := b.config()
	at, o := whereOf(r), origin.Options{}
	switch at.Kind {
	case origin.S3:
		if !c.S3.Enabled {
			return nil, nil
		}
		o = origin.Options{Endpoint: c.S3.Endpoint, Fallbacks: c.S3.Fallbacks, Region: c.S3.Region, PathStyle: c.S3.PathStyle, CredentialsFile: c.S3.CredentialsFile, Proxy: c.S3.Proxy}
	case origin.Https, origin.GitHub, origin.Forge:
		if !c.HTTPS.Enabled {
			return nil, nil
		}
		o = origin.Options{AllowHTTP: true, Proxy: c.HTTPS.Proxy, Token: c.HTTPS.token}
	case origin.Directory:
		if _, err := os.Stat(at.Path); errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
	}
	return origin.Open(at, o)
}

// noRoute says which of this host's own settings keeps it from a revision's origin, which then only peers can give it; "" when none does.
func (b *bundles) noRoute(r desired.Revision) string {
	c := b.config()
	switch at := whereOf(r); at.Kind {
	case origin.S3:
		if !c.S3.Enabled && !c.HTTPS.Enabled {
			return "no origin is enabled in this host's own gitopsd.yaml (`s3.enabled: false`, `https.enabled: false`), so only peers can give it the bundle"
		}
		if !c.S3.Enabled {
			return "this host's own gitopsd.yaml says `s3.enabled: false`, so only peers can give it the bundle"
		}
	case origin.Https, origin.GitHub, origin.Forge:
		if !c.HTTPS.Enabled {
			return "this host's own gitopsd.yaml says `https.enabled: false`, so only peers can give it the bundle"
		}
	case origin.Directory:
		if _, err := os.Stat(at.Path); !errors.Is(err, fs.ErrNotExist) {
			return ""
		}
		return at.Path + " does not exist on this host, so only peers can give it the bundle"
	}
	return ""
}

// explained puts before the reason why a bundle could not be fetched what this host's own settings have to do with it.
func (b *bundles) explained(r desired.Revision, err error) error {
	if own := b.noRoute(r); own != "" {
		return fmt.Errorf("%s: %w", own, err)
	}
	return err
}

// contradicted adds to an error that says that a commit pins an index which is not the digest's what to do about it.
func contradicted(g desired.Group, err error) error {
	if !errors.Is(err, store.ErrBadIndex) {
		return err
	}
	return fmt.Errorf("%w; correct `digest:` in %s/group.yaml, if its `index:` and the archive are the ones meant", err, g.Folder)
}

// whereOf is a revision's place as package origin takes it.
func whereOf(r desired.Revision) origin.Location {
	l := origin.Location{Kind: origin.Kind(r.Type), Type: r.BundleType, Digest: r.Digest, Size: r.Size}
	switch {
	case r.S3 != nil:
		l.Bucket, l.Key, l.Version, l.ETag = r.S3.Bucket, r.S3.Key, r.S3.Version, r.S3.ETag
	case r.GitHub != nil:
		l.Owner, l.Commit = r.GitHub.Repository, r.GitHub.Commit
	case r.Forge != nil:
		l.Forge, l.URL, l.Commit = r.Forge.Forge, r.Forge.URL, r.Forge.Commit
	case r.Https != nil:
		l.URL = r.Https.URL
	case r.Directory != nil:
		l.Path = r.Directory.Path
	case r.Repository != nil:
		l.Path, l.Tree = r.Repository.Path, r.Repository.Tree
	}
	return l
}

// token reads the token for a host anew each time, so that rotating it needs no restart.
func (h HTTPSConfig) token(host string) (string, error) {
	for _, t := range h.Tokens {
		if !strings.EqualFold(t.Host, host) && !(strings.EqualFold(t.Host, "github.com") && host == "api.github.com") {
			continue
		}
		data, err := readMost(t.File, tokenBytesMax)
		token := strings.TrimSpace(string(data))
		if err == nil && (token == "" || strings.ContainsAny(token, " \t\r\n")) {
			err = errors.New("it should hold one token and nothing else")
		}
		if err != nil {
			return "", fmt.Errorf("cannot use the token for %s in %s: %w", t.Host, t.File, err)
		}
		return token, nil
	}
	return "", nil
}

// pack makes the bundle of a folder of the config repository, which this host has in its own git.
func (b *bundles) pack(ctx context.Context, g desired.Group) error {
	r := g.Revision
	from, err := origin.Open(whereOf(r), origin.Options{})
	if err != nil {
		return err
	}
	body, err := from.ReadRange(ctx, 0, r.Size)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := b.store.Import(ctx, bundle.Ref{Digest: r.Digest, Size: r.Size, Type: r.BundleType}, body); err != nil {
		return err
	}
	b.log.Info("bundle complete", "group", g.Folder, "digest", r.Digest.Short(), "fromRepository", r.Size)
	return nil
}
