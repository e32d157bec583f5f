// Package bundle owns what a bundle is: its digest, its types, its piece index, how a tree is packed into one, and how an archive
// of any accepted type is read without being harmed by it.
//
// # The format
//
// A packed bundle is a plain tar.zst that `tar --zstd -x` unpacks. The tar is deterministic (sorted names, one constant mtime, owner
// 0:0, modes and links kept), is cut at content-defined boundaries (FastCDC, 32/128/512 KiB) with forced cuts around the content of
// files of 64 KiB and more, and every chunk is a zstd frame of its own, without a dictionary. Its index lists for every frame the
// stored length, the raw length and the sha256 of both, and follows the frames as one zstd skippable frame, which decoders pass over.
// Two bundles share every frame whose raw bytes are equal, as long as the second was packed with the first as Previous: then the
// stored frame is copied, so that another release of the encoder changes nothing. Chunks that the first has not may be cut once more
// (FastCDC within the chunk, 32/64/128 KiB, or 16/32/64 where nothing compresses) into parts with a frame each, and stay so in bundles
// packed after that.
//
// A foreign archive (.zip, .tgz, .tar, .tar.zst made elsewhere) is indexed as fixed pieces of its raw bytes.
//
// # What is promised
//
// Nothing here opens files, sleeps or starts goroutines: input comes as io.Reader, io.ReaderAt or fs.FS. Every count and length read
// from outside is bounded before memory is taken for it. Reading an archive yields clean relative names only, each once, never below
// a symbolic link; what is refused and what is let through is said at Reader.
//
// # What is not
//
// An index proves nothing by itself: whoever uses one compares Index.Digest with a pinned value first. Extended attributes, ACLs and
// hard links of the packed tree are not kept (fs.FS cannot show them); device nodes, sockets and pipes are refused.
package bundle
