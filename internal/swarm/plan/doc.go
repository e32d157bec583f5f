// Package plan decides, without doing anything, who reads which piece of a bundle from where.
//
// Dealer belongs to one host a bundle, the leader of the group's coordinator set: it deals each missing piece to exactly one host that can reach the origin, as a
// lease that is dealt again only when its holder failed, or let it run out. Pick belongs to every host: rarest piece first, from the least busy peer that has it.
//
// What is dealt is what leaves the origin, so one copy leaves it, plus what failed or lost holders had already fetched. The Dealer keeps a budget for the latter and
// stops dealing when it is spent: a failure deals again, it never opens a stampede.
package plan
