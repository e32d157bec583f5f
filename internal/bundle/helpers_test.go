package bundle

import (
	"crypto/sha256"
	"hash"
)

func newHash() hash.Hash { return sha256.New() }

func sum256(data []byte) [sha256.Size]byte { return sha256.Sum256(data) }
