// Package origin reads bundles from where they were released to: S3 and compatible stores, plain HTTPS, a directory. It is the only
// package that knows the AWS SDK.
//
// An origin is untrusted: it hands out bytes, and whoever reads them checks them against a digest or index pinned in git. It does not
// retry, cache or limit rates; its errors say whether trying again can help (Transient) and, where a person must act, what to do.
// Credentials never appear in an error or a log line.
package origin
