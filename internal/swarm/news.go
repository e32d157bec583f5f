package swarm

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"slices"
	"strings"
	"unicode"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/swarm/plan"
)

// News is the stream in which a host tells another what it has of one bundle: the magic, then frames of kind (1 byte), length (4 bytes, little-endian), payload.
const newsMagic = "gitopsd-news/1\n"

// Kinds of frames.
const (
	newsIndex  = 'I' // sha256 of the encoded index that the pieces below belong to, or nothing while it is unknown; the pieces start anew
	newsBitmap = 'B' // all pieces, as plan.Bits
	newsPieces = 'P' // more pieces, each a uint32
	newsState  = 'S' // JSON of state
	newsAlive  = 'A' // nothing new
)

// Bounds of the news.
const (
	newsFrameMax = 256 << 10 // bytes of a frame
	newsRate     = 1 << 20   // bytes in a second that are taken in from one host, of which
	newsLeast    = 1 << 10   // each frame counts for so many: a host that gathers its news as it should tells half as much
	newsListMax  = 1 << 12   // pieces of a list
	saysMax      = 500       // bytes of a sentence
)

// state is what a host says of itself in an exchange.
type state struct {
	Origin  bool   `json:"origin,omitempty"`  // it has a route to the origin
	Reading []int  `json:"reading,omitempty"` // pieces it reads from there now
	Says    string `json:"says,omitempty"`    // what it waits for
}

func (s state) equal(o state) bool {
	return s.Origin == o.Origin && s.Says == o.Says && slices.Equal(s.Reading, o.Reading)
}

// view is what one host knows of another.
type view struct {
	index bundle.Digest // "" while it has none
	have  plan.Bits
	state state
}

// newsWriter writes frames.
type newsWriter struct {
	w    *bufio.Writer
	sent view
	said bool // sent.state was
}

// frame writes one frame.
func (n *newsWriter) frame(kind byte, payload []byte) error {
	var head [5]byte
	head[0] = kind
	binary.LittleEndian.PutUint32(head[1:], uint32(len(payload)))
	if _, err := n.w.Write(head[:]); err != nil {
		return err
	}
	_, err := n.w.Write(payload)
	return err
}

// tell writes what differs from what was told before, and whether anything did.
func (n *newsWriter) tell(v view) (bool, error) {
	told := false
	if v.index != n.sent.index {
		told, n.sent.index, n.sent.have = true, v.index, nil
		sum, _ := v.index.Sum()
		payload := sum[:]
		if v.index == "" {
			payload = nil
		}
		if err := n.frame(newsIndex, payload); err != nil {
			return told, err
		}
	}
	if pieces, whole := gained(n.sent.have, v.have); whole {
		told = true
		if err := n.frame(newsBitmap, v.have); err != nil {
			return told, err
		}
	} else if len(pieces) > 0 {
		told = true
		if err := n.frame(newsPieces, pieces); err != nil {
			return told, err
		}
	}
	n.sent.have = append(n.sent.have[:0], v.have...)
	if n.said && v.state.equal(n.sent.state) {
		return told, nil
	}
	n.said, n.sent.state = true, v.state
	text, err := json.Marshal(v.state)
	if err != nil {
		return true, err
	}
	return true, n.frame(newsState, text)
}

// differs says whether there is anything to tell.
func (n *newsWriter) differs(v view) bool {
	return v.index != n.sent.index || !bytes.Equal(v.have, n.sent.have) || !n.said || !v.state.equal(n.sent.state)
}

// gained encodes the pieces that are new, or says that the whole bitmap is shorter or has lost some.
func gained(before, now plan.Bits) (list []byte, whole bool) {
	if len(before) != len(now) {
		return nil, len(now) > 0
	}
	for k := range now {
		if before[k]&^now[k] != 0 {
			return nil, true
		}
		for fresh := now[k] &^ before[k]; fresh != 0; fresh &= fresh - 1 {
			list = binary.LittleEndian.AppendUint32(list, uint32(8*k+bits.TrailingZeros8(fresh)))
		}
		if len(list) > len(now) || len(list) > 4*newsListMax {
			return nil, true
		}
	}
	return list, false
}

// newsReader reads frames into a view.
type newsReader struct {
	r    *bufio.Reader
	view view
}

// begin reads the magic.
func (n *newsReader) begin() error {
	magic := make([]byte, len(newsMagic))
	if _, err := io.ReadFull(n.r, magic); err != nil {
		return err
	}
	if string(magic) != newsMagic {
		return fmt.Errorf("the peer speaks %.20q, this host %q", magic, newsMagic)
	}
	return nil
}

// errNews says that a peer's news are not what they should be. A kind of frame that is not known is another matter: a later version may tell more.
var errNews = errors.New("malformed news")

var errNewsKind = errors.New("news of an unknown kind")

// read reads one frame.
func (n *newsReader) read() (kind byte, payload []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(n.r, head[:]); err != nil {
		return 0, nil, err
	}
	size := binary.LittleEndian.Uint32(head[1:])
	if size > newsFrameMax {
		return 0, nil, fmt.Errorf("%w: a frame of %d bytes, at most %d are possible", errNews, size, newsFrameMax)
	}
	payload = make([]byte, size)
	_, err = io.ReadFull(n.r, payload)
	return head[0], payload, err
}

// take takes one frame in. It returns the pieces gained.
func (n *newsReader) take(kind byte, payload []byte) (pieces []int, err error) {
	switch kind {
	case newsIndex:
		n.view.index, n.view.have = "", nil
		if len(payload) == 0 {
			return nil, nil
		}
		if len(payload) != sha256.Size {
			return nil, fmt.Errorf("%w: an index digest of %d bytes", errNews, len(payload))
		}
		n.view.index = bundle.DigestOf([sha256.Size]byte(payload))
	case newsBitmap:
		if len(payload) > (bundle.MaxPieces+7)/8 {
			return nil, fmt.Errorf("%w: a bitmap of %d bytes", errNews, len(payload))
		}
		n.view.have = payload
	case newsPieces:
		if len(payload)%4 != 0 {
			return nil, fmt.Errorf("%w: a list of %d bytes", errNews, len(payload))
		}
		for ; len(payload) > 0; payload = payload[4:] {
			i := binary.LittleEndian.Uint32(payload)
			if i >= uint32(8*len(n.view.have)) {
				return nil, fmt.Errorf("%w: piece %d of %d", errNews, i, 8*len(n.view.have))
			}
			n.view.have.Set(int(i))
			pieces = append(pieces, int(i))
		}
	case newsState:
		var s state
		if err := json.Unmarshal(payload, &s); err != nil {
			return nil, fmt.Errorf("%w: %w", errNews, err)
		}
		if len(s.Reading) > newsListMax {
			s.Reading = s.Reading[:newsListMax]
		}
		s.Says = plain(s.Says, saysMax)
		n.view.state = s
	case newsAlive:
	default:
		return nil, fmt.Errorf("%w %q", errNewsKind, kind)
	}
	return pieces, nil
}

// plain makes one bounded printable line of what another host says.
func plain(text string, limit int) string {
	if len(text) > limit {
		text = text[:limit]
	}
	return strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, " "))
}
