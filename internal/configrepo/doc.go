// Package configrepo owns this host's copy of the config repository: it mirrors
// one branch, verifies every tip for itself, and hands out the commit that may
// be acted on together with its files.
//
// The algorithm, in the order of a cycle:
//
//  1. Ask each mirror in order for the tip of the branch, with an own client of
//     a few hundred lines whose every read is capped (uploadpack.go).
//  2. Fetch what is missing as one pack, in a child process with a memory
//     limit; the pack is capped in bytes, objects and object sizes before any
//     of it is parsed (ingest.go, index.go), and synced to disk.
//  3. Walk the first-parent line from the accepted commit to the tip and move
//     forward to every state whose change is authorised by its signers under
//     the policy before it (verify.go, package trust).
//  4. Read completely what the move adds, then move the ratchet (ratchet.go).
//
// It guarantees that the accepted commit never moves to anything but an
// authorised descendant, that every object between the introduction and the
// accepted commit is on disk before the ratchet says so, and that acceptance
// depends on the commits alone: not on a clock, nor on when or from whom they
// were fetched. Peers' packs (pack.go) pass the same gate.
//
// It does not promise freshness: who withholds commits is found out by others.
// It does not understand what the files mean; that is package desired.
package configrepo
