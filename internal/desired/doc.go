// Package desired turns the tree of one commit of the config repository into what the fleet should run.
//
// Load reads every file formats.md names (fleet.yaml, trust.yaml, hosts/, coordinators/, and each folder with a group.yaml together with its
// overlays) out of an fs.FS and returns a State and every Problem at once, each with file, line and column. It decides nothing about when: it says
// which hosts there are, who coordinates, which hosts each deployment group has, which revision the group should run, by which policy it may move, and
// the spec hash that names the whole of it. Equal trees give equal States on every host, whatever the clock, the machine or the order of files.
//
// A file that is wrong never hides one that is right: a broken group is left out and reported, the others still load. What was left out is listed in
// State.Broken, because absence through a mistake is not removal; see Removed.
//
// The package is pure: it opens nothing but the fs.FS it was given, and every file, list and depth has a bound in bounds.go. It does not verify
// signatures (configrepo does), does not fetch bundles, and executes nothing. What is written in a file but cannot be executed yet is refused by name
// and never ignored.
package desired
