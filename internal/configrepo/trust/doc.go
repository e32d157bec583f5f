// Package trust holds the rules by which a change of the config repository is
// authorised: trust.yaml, OpenSSH's allowed_signers, and commit signatures.
//
// It is a function of bytes: it reads no file, no clock and no network, so that
// two hosts that see the same commits always judge alike. Key expiry is not
// evaluated against the present: a key is withdrawn by a commit that takes it
// out of trust.yaml.
package trust
