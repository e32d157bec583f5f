package consensus

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Limits of a set's description.
const (
	votersMax  = 9
	nameMaxLen = 128
)

// Voter is one line of a coordinator set: a host and the id of the storage it
// had when it was listed. The same host with another storage is not this voter.
type Voter struct {
	Host    string
	Storage string
}

// String gives HOST/STORAGE, as in the set's file.
func (v Voter) String() string { return v.Host + "/" + v.Storage }

func (v Voter) check() error {
	for _, part := range []string{v.Host, v.Storage} {
		if part == "" || len(part) > nameMaxLen || strings.ContainsAny(part, "/ \t\r\n\x00") {
			return fmt.Errorf("%q is no HOST/STORAGE", v.String())
		}
	}
	return nil
}

// ParseVoter reads HOST/STORAGE.
func ParseVoter(line string) (Voter, error) {
	host, storage, _ := strings.Cut(line, "/")
	v := Voter{Host: host, Storage: storage}
	return v, v.check()
}

// SetSpec describes a coordinator set, as its file in the repository does.
type SetSpec struct {
	// Name of the set.
	Name string
	// Epoch starts at 1 and rises by one when a set that lost its quorum is born again.
	Epoch uint64
	// Introduction is the commit that introduced the repository; it keeps
	// equally named sets of two fleets apart.
	Introduction string
	// Voters are 1 to 9 hosts, each at most once.
	Voters []Voter
}

func (s SetSpec) check() error {
	if s.Name == "" || len(s.Name) > nameMaxLen || strings.ContainsAny(s.Name, "\x00\n") || s.Name == "." || s.Name == ".." {
		return errors.New("the name is empty, too long or has control characters")
	}
	if len(s.Introduction) > nameMaxLen || strings.ContainsAny(s.Introduction, "\x00\n") {
		return errors.New("the introduction is no commit id")
	}
	if s.Epoch == 0 || s.Epoch > epochMax {
		return fmt.Errorf("epoch %d is not within 1 and %d", s.Epoch, epochMax)
	}
	if len(s.Voters) == 0 || len(s.Voters) > votersMax {
		return fmt.Errorf("it lists %d voters, 1 to %d are needed", len(s.Voters), votersMax)
	}
	seen := map[string]bool{}
	for _, v := range s.Voters {
		if err := v.check(); err != nil {
			return err
		}
		if seen[v.Host] {
			return fmt.Errorf("host %s is listed twice as a voter", v.Host)
		}
		seen[v.Host] = true
	}
	return nil
}

// sorted returns the voters' lines in canonical order.
func (s SetSpec) sorted() []string {
	var lines []string
	for _, v := range s.Voters {
		lines = append(lines, v.String())
	}
	slices.Sort(lines)
	return lines
}

// voter finds the line of a host.
func (s SetSpec) voter(host string) (Voter, bool) {
	for _, v := range s.Voters {
		if v.Host == host {
			return v, true
		}
	}
	return Voter{}, false
}

// has tells whether exactly this host and storage is listed.
func (s SetSpec) has(v Voter) bool {
	listed, ok := s.voter(v.Host)
	return ok && listed == v
}

// clusterID names one birth of one set.
type clusterID [sha256.Size]byte

func (id clusterID) String() string { return hex.EncodeToString(id[:]) }

// id computes the cluster id; see formats in codec.go for why lengths are part of it.
func (s SetSpec) id() clusterID {
	b := appendString(nil, "gitopsd-cluster/1")
	b = appendString(b, s.Introduction)
	b = appendString(b, s.Name)
	b = appendUint(b, s.Epoch)
	for _, line := range s.sorted() {
		b = appendString(b, line)
	}
	return sha256.Sum256(b)
}

// An index given to a Machine holds the epoch above epochShift bits, so that
// it grows even when a set is born again, and fits 53 bits for JSON.
const (
	epochShift = 40
	epochMax   = 1 << 12
)

// IndexOf gives the index that a Machine sees for an entry of the raft log: in
// epoch 1 it is the raft index itself.
func IndexOf(epoch, raftIndex uint64) uint64 { return (epoch-1)<<epochShift + raftIndex }
