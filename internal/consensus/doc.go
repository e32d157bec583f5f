// Package consensus replicates a Machine to every host of a coordinator set.
//
// A set has a few voters, which agree on a log by raft (github.com/hashicorp/raft),
// and any number of observers, which follow the committed log over a stream from
// any live voter. Every one of them applies the same commands in the same order
// to its own Machine, so any host answers for the set. Commands are submitted
// from anywhere and are carried to the leader.
//
// What it guarantees:
//   - One cluster. A cluster is named by the hash of the repository's
//     introduction, the set, its epoch and its voters with their storage ids;
//     every stream says which cluster it means, from whom and to whom, and the
//     acceptor compares that with the identity transport proved. Exactly the
//     listed voters bootstrap, with exactly that list, and never over state.
//   - Order. Machine.Apply sees (index, term) that never decrease, the same on
//     every host; commands of one log entry share the index. An index carries
//     the epoch in its upper bits (see IndexOf), so it grows over epochs too.
//   - Fencing. A command given to Lead is applied only if the log put it into
//     that very term.
//   - One epoch at a time. A set that lost its quorum for good goes on under the
//     next epoch, listed in a new commit: whoever opens that has left the old
//     epoch for good, and what the old one's stragglers still do is heard by
//     nobody who has. See below for what is kept.
//   - Never after a wipe. A listed voter whose store was lost, replaced or
//     damaged does not vote again under its storage id, nor found the set a
//     second time: a marker outside the store and the memory of the others tell.
//     It observes, and Status.Problems says what to do. An observer never
//     replaces its state by an older one.
//   - A voter whose disk fails or stalls stops taking part instead of leading
//     forever; see Status.Failed.
//
// What it does not promise: exactly once. A Submit that returns ErrUnknown may
// have happened or may happen later, and one that is retried by the caller may
// be applied twice, so commands have to be idempotent. Nor does an observer keep
// state over a restart: it takes a snapshot from the first voter it reaches,
// which may be a little behind what it had seen before.
//
// # A new epoch
//
// Opened under an epoch after the first, every listed voter first makes durable
// what it carries: the end of the newest log it has of an earlier epoch, or what
// it had as an observer in this process. One of them, the founder (the first in
// canonical order), waits for the answer of every listed voter, adopts the
// highest (epoch, term, index) state, writes it as the first entry of the new log
// and stands for election; the others begin empty and get the state from raft.
// Nothing can be submitted before that. Status.Problems names who is waited for.
//
// Every command is kept that any listed voter carries. The founder asks the
// voters of the epochs before as well, and as soon as a majority of each has
// answered, nothing that was ever acknowledged is missing. If they do not answer
// it goes on without them, after 10 heartbeat timeouts, or 60 if one is there but
// has not seen the new epoch. Then these commands are lost: those acknowledged
// by a majority of voters none of which, nor any observer of them that was listed
// as a voter and lived on in its process, was among those that answered. Commands
// of unknown outcome may turn out to have been applied. If nobody that was asked
// has ever followed the set, it begins empty, and says so.
package consensus
