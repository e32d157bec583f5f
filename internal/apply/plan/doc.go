// Package plan decides what Install does to a host's files: from a checked
// appspec.yml, a listing of the release, what is on the disk and what earlier
// deployments put there, to a list of placements and removals. It touches
// nothing and reads no clock; the same input gives the same plan.
package plan
