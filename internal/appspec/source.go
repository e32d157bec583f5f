package appspec

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
	"go.yaml.in/yaml/v4/plugin/loaderlimits"
)

// Bounds of what is read. The agent has none but its host's memory and stack; no appspec.yml in use comes near these.
const (
	MaxSourceBytes = 1 << 20 // size of the file
	maxMarks       = 1 << 17 // commas, colons, brackets, dashes and lines: each may become a node, which takes some 250 bytes
	maxDepth       = 500     // levels of nesting
	maxDigits      = 4096    // of a number
	maxAliasWeight = 1 << 18 // what aliases may add to the file, in nodes and bytes of text
)

const byteOrderMark = "\uFEFF"

// document is the first document of a file, as one value, with what was noticed on the way.
type document struct {
	root       *value // nil: the file holds no document
	hasBOM     bool
	moreFollow Position // where a second document begins
	duplicates []duplicate
	alias      Position // the first alias
}

// duplicate is a key that a mapping gives again; the last one counts.
type duplicate struct {
	key   string
	first Position
	again Position
}

// readDocument makes a value of the first document of src. Later documents are not looked at, as the agent does not.
func readDocument(src []byte) (document, *Problem) {
	var doc document
	if len(src) > MaxSourceBytes {
		return doc, &Problem{Message: fmt.Sprintf("the file has %d bytes, more than the %d an AppSpec file may have", len(src), MaxSourceBytes)}
	}
	if p := checkCharacters(src); p != nil {
		return doc, p
	}
	doc.hasBOM = bytes.HasPrefix(src, []byte(byteOrderMark))
	text, more := firstDocument(blankMarks(src))
	doc.moreFollow = more
	marks := 0
	for _, c := range text {
		if strings.IndexByte(",:?-[{\n\r", c) >= 0 {
			marks++
		}
	}
	if marks > maxMarks {
		return doc, &Problem{Message: fmt.Sprintf("the file holds too many values, the bound is %d", maxMarks)}
	}
	node, parsed, end, p := compose(text)
	if p != nil || node == nil {
		return doc, p
	}
	if end != (Position{}) {
		doc.moreFollow = end
	}
	if p := checkTabs(string(parsed)); p != nil {
		return doc, p
	}
	r := reader{made: make(map[*yaml.Node]*value), bound: 2*len(text) + maxAliasWeight, doc: &doc, lines: splitLines(parsed)}
	root, p := r.read(node)
	if p != nil {
		return doc, p
	}
	doc.root = root
	return doc, nil
}

// blankMarks puts a blank for every byte order mark at the start of a line. The agent's parser skips the mark but counts its column, so
// that a block mapping ends after its first key; a blank has the same effect.
func blankMarks(src []byte) []byte {
	if !bytes.Contains(src, []byte(byteOrderMark)) {
		return src
	}
	text := src
	for _, before := range []string{"\n", "\r"} {
		text = bytes.ReplaceAll(text, []byte(before+byteOrderMark), []byte(before+" "))
	}
	if rest, found := bytes.CutPrefix(text, []byte(byteOrderMark)); found {
		text = append([]byte(" "), rest...)
	}
	return text
}

// splitLines cuts text at its line breaks, for looking at the characters of a place.
func splitLines(text []byte) []string {
	return strings.Split(strings.NewReplacer("\r\n", "\n", "\r", "\n", "\u0085", "\n", "\u2028", "\n", "\u2029", "\n").Replace(string(text)), "\n")
}

// checkCharacters refuses what the agent's YAML library does not take as text: bytes that are not UTF-8, and control characters.
func checkCharacters(src []byte) *Problem {
	at := Position{1, 1}
	for i := 0; i < len(src); {
		r, size := utf8.DecodeRune(src[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			return &Problem{Position: at, Message: fmt.Sprintf("invalid UTF-8: byte 0x%02X", src[i]), Hint: "save the file as UTF-8"}
		case r == '\n', r == '\r' && (i+1 == len(src) || src[i+1] != '\n'):
			at = Position{at.Line + 1, 0}
		case r == '\t', r == '\r', r == 0x85, r >= 0x20 && r < 0x7f, r >= 0xa0 && r <= 0xfffd, r >= 0x10000:
		default:
			return &Problem{Position: at, Message: fmt.Sprintf("control characters are not allowed: U+%04X", r)}
		}
		at.Column++
		i += size
	}
	return nil
}

// firstDocument cuts text after the marker that ends its first document, and says where the next one begins. The library below reads
// two tokens ahead and would stumble over errors in a second document, which the agent never reads. A marker at the start of a line
// ends a document wherever it stands but in a quoted scalar, and there it is an error in itself.
func firstDocument(text []byte) ([]byte, Position) {
	started, line := false, 0
	for start := 0; start < len(text); {
		end := start + bytes.IndexAny(text[start:], "\n\r")
		if end < start {
			end = len(text)
		}
		row := text[start:end]
		line++
		switch {
		case isMarker(row, "..."), isMarker(row, "---") && started:
			rest := bytes.TrimSpace(text[min(end, len(text)):])
			var next Position
			if row[0] == '-' || len(rest) > 0 {
				next = Position{line, 1}
			}
			return text[:start+3], next
		case isMarker(row, "---"):
			started = true
		case len(bytes.TrimLeft(row, " \t")) > 0 && bytes.TrimLeft(row, " \t")[0] != '#' && row[0] != '%':
			started = true
		}
		start = end + 1
		if end < len(text) && text[end] == '\r' && start < len(text) && text[start] == '\n' {
			start++
		}
	}
	return text, Position{}
}

// isMarker says whether row is the document marker, alone or before a blank.
func isMarker(row []byte, marker string) bool {
	rest, found := bytes.CutPrefix(row, []byte(marker))
	return found && (len(rest) == 0 || rest[0] == ' ' || rest[0] == '\t' || bytes.HasPrefix(rest, []byte("\u0085")) ||
		bytes.HasPrefix(rest, []byte("\u2028")) || bytes.HasPrefix(rest, []byte("\u2029")))
}

// maxMended bounds how often compose mends a text.
const maxMended = 32

// yamlTwo is a directive that says the text is YAML 1.2.
var yamlTwo = regexp.MustCompile(`^%YAML[ \t]+0*1\.0*2(?:\s|$)`)

// compose parses the first document of text into nodes; nil for a text without a document. The library is stricter than the agent's in
// four places, where the text is mended and parsed again: it takes no directive for YAML 1.2, to which the agent pays no heed; it wants a marker where a document ends, while the agent takes what follows
// the root node for another document, which it does not read (end says where that is, parsed is the text before it); it wants a blank
// before a comment that follows a quoted scalar; and it does not take a dash alone for a scalar within brackets.
func compose(text []byte) (root *yaml.Node, parsed []byte, end Position, p *Problem) {
	for mended := 0; ; mended++ {
		root, syntax, p := load(text)
		if syntax == nil {
			return root, text, end, p
		}
		at := Position{syntax.Mark.Line, syntax.Mark.Column}
		before := firstRunes(text, syntax.Mark.Index)
		rest := text[len(before):]
		switch {
		case mended == maxMended:
		case end == (Position{}) && strings.HasPrefix(syntax.Message, "did not find expected <document "):
			text, end = before, at
			continue
		case syntax.Message == "found incompatible YAML document" && yamlTwo.Match(rest):
			minor := len(before) + bytes.IndexByte(rest, '2')
			text = append(append(append([]byte(nil), text[:minor]...), '1'), text[minor+1:]...)
			continue
		case syntax.Message == "found a comment without preceding whitespace" && len(rest) > 0 && rest[0] == '#':
			text = append(append(append([]byte(nil), before...), ' '), rest...)
			continue
		case syntax.Message == "found character that cannot start any token" && len(rest) > 1 && rest[0] == '-' && isFlowMark(rune(rest[1])):
			text = append(append(append([]byte(nil), before...), "'-'"...), rest[1:]...)
			continue
		}
		message := syntax.Message
		if syntax.ContextMsg != "" {
			message += " " + syntax.ContextMsg
		}
		hint := ""
		if len(rest) > 0 && rest[0] == '\t' {
			hint = "the line holds a tab: use blanks"
		}
		return nil, nil, end, &Problem{Position: at, Message: message, Hint: hint}
	}
}

// load parses text; an error of the library that has a place in the text comes as syntax, any other as p.
func load(text []byte) (root *yaml.Node, syntax *yaml.LoadError, p *Problem) {
	loader, err := yaml.NewLoader(bytes.NewReader(text), yaml.WithPlugin(loaderlimits.New(loaderlimits.DepthValue(maxDepth))))
	if err != nil {
		return nil, nil, &Problem{Message: err.Error()}
	}
	var node yaml.Node
	err = loader.Load(&node)
	switch {
	case errors.Is(err, io.EOF):
		return nil, nil, nil
	case errors.As(err, &syntax):
		return nil, syntax, nil
	case err != nil:
		return nil, nil, &Problem{Message: err.Error()}
	case len(node.Content) == 0:
		return nil, nil, nil
	}
	return node.Content[0], nil, nil
}

// firstRunes is the beginning of text, n characters long.
func firstRunes(text []byte, n int) []byte {
	for i := range string(text) {
		if n == 0 {
			return text[:i]
		}
		n--
	}
	return text
}

// reader makes values of nodes.
type reader struct {
	made  map[*yaml.Node]*value // values of finished nodes, and nil for those under way
	bound int                   // of a value's weight
	doc   *document
	lines []string // of the text
	flow  int      // levels of brackets around the node being read
}

// checkNode refuses what the library takes and the agent's does not: anchors with other characters than letters, digits, - and _; block
// mappings with a colon where a key should stand; and scalars within brackets that begin with a colon.
func (r *reader) checkNode(node *yaml.Node, at Position) *Problem {
	anchor := node.Anchor
	if node.Kind == yaml.AliasNode {
		anchor = node.Value
	}
	for _, c := range anchor {
		if c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return &Problem{Position: at, Message: fmt.Sprintf("did not find expected alphabetic or numeric character while scanning an anchor: %q", clip(anchor))}
		}
	}
	if node.Kind == yaml.ScalarNode && r.flow > 0 && node.Style == 0 && strings.HasPrefix(node.Value, ":") {
		return &Problem{Position: at, Message: "did not find expected node content while parsing a flow node", Hint: "put what begins with a colon in quotes"}
	}
	if node.Kind != yaml.MappingNode {
		return nil
	}
	if node.Style&yaml.FlowStyle != 0 {
		return r.checkFlowKeys(node)
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key := node.Content[i]
		if key.Kind == yaml.ScalarNode && key.Value == "" && key.Style == 0 && key.Anchor == "" && r.char(key.Line, key.Column) == ':' {
			return &Problem{Position: Position{key.Line, key.Column}, Message: "did not find expected key while parsing a block mapping"}
		}
	}
	return nil
}

// checkFlowKeys refuses what the agent's library does not take within brackets: a colon without a key, a plain key of several lines or
// whose colon stands on a later line, and one whose colon is followed by a bracket or a comma. After a question mark all are fine.
func (r *reader) checkFlowKeys(node *yaml.Node) *Problem {
	for i := 0; i+1 < len(node.Content); i += 2 {
		key := node.Content[i]
		if key.Kind != yaml.ScalarNode || key.Style != 0 || key.Anchor != "" || r.before(key.Line, key.Column) == '?' {
			continue
		}
		line, column := key.Line, key.Column
		if isBare(key) {
			if r.char(line, column) == ':' {
				return &Problem{Position: Position{line, column}, Message: "did not find expected node content while parsing a flow node", Hint: "put a key before the colon"}
			}
			continue
		}
		for _, c := range key.Value {
			if r.char(line, column) != c && isBare(node.Content[i+1]) {
				return nil // a key of several lines, which is fine without a colon
			}
			if r.char(line, column) != c {
				return &Problem{Position: Position{key.Line, key.Column}, Message: "did not find expected ',' or '}' while parsing a flow mapping", Hint: "write the key on one line"}
			}
			column++
		}
		if r.char(line, column) == ':' && isFlowMark(r.char(line, column+1)) {
			return &Problem{Position: Position{line, column}, Message: "found unexpected ':' while scanning a plain scalar", Hint: "put a blank after the colon"}
		}
		for isBlank(r.char(line, column)) {
			column++
		}
		for r.char(line, column) == 0 && line < len(r.lines) {
			for line, column = line+1, 1; isBlank(r.char(line, column)); {
				column++
			}
		}
		if line > key.Line && r.char(line, column) == ':' {
			return &Problem{Position: Position{line, column}, Message: "did not find expected ',' or '}' while parsing a flow mapping", Hint: "put the colon behind its key"}
		}
	}
	return nil
}

// isBare says whether node stands for nothing in the text.
func isBare(node *yaml.Node) bool {
	return node.Kind == yaml.ScalarNode && node.Value == "" && node.Style == 0 && node.Anchor == ""
}

// before is the last character before a place of the text that is neither blank nor a line break; 0 without one.
func (r *reader) before(line, column int) rune {
	for ; line > 0; line, column = line-1, math.MaxInt {
		var last rune
		for _, c := range r.lines[line-1] {
			if column--; column == 0 {
				break
			}
			if !isBlank(c) {
				last = c
			}
		}
		if last != 0 {
			return last
		}
	}
	return 0
}

// char is the character at a place of the text; 0 beyond it.
func (r *reader) char(line, column int) rune {
	if line < 1 || line > len(r.lines) {
		return 0
	}
	for _, c := range r.lines[line-1] {
		if column--; column == 0 {
			return c
		}
	}
	return 0
}

// read makes the value of node.
func (r *reader) read(node *yaml.Node) (*value, *Problem) {
	at := Position{node.Line, node.Column}
	if p := r.checkNode(node, at); p != nil {
		return nil, p
	}
	if node.Kind == yaml.AliasNode {
		if r.doc.alias == (Position{}) {
			r.doc.alias = at
		}
		v := r.made[node.Alias]
		if v == nil {
			return nil, &Problem{Position: at, Message: fmt.Sprintf("alias *%s stands within what it refers to", node.Value)}
		}
		return v, nil
	}
	r.made[node] = nil
	if node.Style&yaml.FlowStyle != 0 {
		r.flow++
		defer func() { r.flow-- }()
	}
	var v *value
	var p *Problem
	switch node.Kind {
	case yaml.ScalarNode:
		v, p = readScalar(node, at)
	case yaml.SequenceNode:
		v, p = r.readList(node, at)
	default:
		v, p = r.readMap(node, at)
	}
	if p != nil {
		return nil, p
	}
	v.at = at
	if v.weight > r.bound {
		return nil, &Problem{Position: at, Message: "aliases make the file too large", Hint: "write out what they stand for, or use fewer"}
	}
	r.made[node] = v
	return v, nil
}

// longTag is the explicit tag of node in its long form. An exclamation mark alone is none, but it undoes quotes.
func longTag(node *yaml.Node) (tag string, undoesQuotes bool) {
	if node.Style&yaml.TaggedStyle == 0 {
		return "", node.Tag == "!"
	}
	if rest, found := strings.CutPrefix(node.Tag, "!!"); found {
		return yamlTag + rest, true
	}
	return node.Tag, true
}

func readScalar(node *yaml.Node, at Position) (*value, *Problem) {
	tag, undoesQuotes := longTag(node)
	inQuotes := node.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0
	v, err := scalar(node.Value, tag, inQuotes && !undoesQuotes)
	if err != nil {
		return nil, &Problem{Position: at, Message: err.Error()}
	}
	v.weight = 1 + len(node.Value)
	if !inQuotes {
		v.source = node.Value
	}
	return v, nil
}

func (r *reader) readList(node *yaml.Node, at Position) (*value, *Problem) {
	tag, _ := longTag(node)
	if tag == "!omap" || tag == yamlTag+"omap" {
		return r.readOrderedMap(node)
	}
	for _, prefix := range []string{"!seq:", "!ruby/array:"} {
		if class, found := strings.CutPrefix(tag, prefix); found {
			return nil, &Problem{Position: at, Message: errClass(class).Error()}
		}
	}
	v := &value{kind: kindList, weight: 1}
	for _, child := range node.Content {
		item, p := r.read(child)
		if p != nil {
			return nil, p
		}
		v.list = append(v.list, item)
		v.weight = addWeight(v.weight, item.weight)
	}
	return v, nil
}

// addWeight adds without overflow.
func addWeight(a, b int) int {
	const most = 1 << 40
	return min(a+b, most)
}
