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
//   - A voter whose disk fails or stalls stops taking part instead of leading
//     forever; see Status.Failed.
//
// What it does not promise: exactly once. A Submit that returns ErrUnknown may
// have happened or may happen later, and one that is retried by the caller may
// be applied twice, so commands have to be idempotent. Nor does an observer keep
// state over a restart: it takes a snapshot from the first voter it reaches,
// which may be a little behind what it had seen before.
package consensus
