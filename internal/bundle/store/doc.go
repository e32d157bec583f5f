// Package store keeps bundles on this host's disk by digest: complete ones, and partial ones that grow piece by piece in any order
// and survive a crash.
//
// # Layout, all below Options.Dir
//
//	partial/HEX/{ref,data,have,index}   a bundle on its way: data is preallocated to full size, have is the bitmap of verified pieces
//	complete/HEX/{ref,data,index}       a bundle that was verified: by its digest, or piece by piece with an index that is pinned as the digest is
//	pins                                which digests must not be collected, and for whom
//
// # What is promised
//
// A piece is written only if its sha256 is in the index, by one at a time, and its bit is made durable only after its bytes are. After a restart a
// piece that the bitmap claims is verified once more before it is read. A partial's folder is durable before a bitmap or the complete
// bundle counts on it, not before: what a power cut leaves of it until then is fetched again. Before a bundle counts as complete, Finish compares the digest of
// the whole file, unless a pinned index vouches for every piece that came since the start; before its content is used, Unpack compares it
// in any case. A bundle that cannot fit within the limit or would use the disk's last bytes is refused before anything is written. All
// methods may be called from several goroutines; one process at a time may have a store open.
//
// # What is not
//
// Bit rot under a complete bundle is found when a piece is read or the bundle is unpacked, not before. A piece that is wrong is never
// handed out; the bundle becomes a suspect, and Recheck makes a partial of it, which wants only what rotted. Nothing is ever deleted but by
// Collect, Partial.Discard, a failed Unpack's own directory, Recheck of a wrong bundle whose pieces nobody knows or whose length changed, and Open
// what it cannot read as whole.
package store
