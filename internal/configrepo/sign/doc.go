// Package sign makes what configrepo verifies: it signs commits with SSH keys in
// this process, writes allowed_signers lines, and emulates the parts of
// ssh-keygen that git calls, for machines without OpenSSH. It also builds small
// repositories for the demo and for tests.
//
// It never handles passphrases or agents: keys in files, without passphrase.
package sign
