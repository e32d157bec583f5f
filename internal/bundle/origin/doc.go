// Package origin reads bundles from where they were released to: S3 and compatible stores, archives that GitHub, GitLab and Gitea make of a
// commit, plain HTTPS, a directory, a folder of the config repository. It is the only package that knows the AWS SDK.
//
// An origin is untrusted: it hands out bytes, and whoever reads them checks them against a digest or index pinned in git. It does not
// retry, cache or limit rates, and asks another endpoint only where several are configured; its errors say whether trying again can help
// (Transient) and, where a person must act, what to do. Credentials never appear in an error or a log line.
//
// Forges make archives on demand, without length, ranges or index: they are read whole, by one host for the fleet, and a forge that one
// day makes other bytes of the same commit is refused with that reason, for the digest in git is that of the archive.
package origin
