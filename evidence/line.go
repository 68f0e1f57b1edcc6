package evidence

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	jsonv2 "github.com/go-json-experiment/json"
	"golang.org/x/mod/sumdb/tlog"
)

// Version of the segment format that this package writes and reads.
const Version = 1

// Header is the first line of a segment: enough to go on from there without the
// segments before.
type Header struct {
	Version int      `json:"s"`
	Origin  string   `json:"origin"`
	Key     string   `json:"key"`   // verifier key, note format
	First   uint64   `json:"first"` // index of the segment's first record
	Edge    []string `json:"edge"`  // right edge of the tree over the records before it, base64
}

// NewHeader describes a segment that goes on after tree.
func NewHeader(vkey, origin string, tree Tree) Header {
	h := Header{Version: Version, Origin: origin, Key: vkey, First: tree.Size(), Edge: []string{}}
	for _, e := range tree.edge {
		h.Edge = append(h.Edge, e.String())
	}
	return h
}

// Tree is the tree over the records before the segment.
func (h *Header) Tree() (Tree, error) {
	edge := make([]Hash, len(h.Edge))
	for i, s := range h.Edge {
		var err error
		if edge[i], err = parseHash(s); err != nil {
			return Tree{}, fmt.Errorf("evidence: the right edge of a segment: %w", err)
		}
	}
	return NewTree(h.First, edge)
}

// AppendHeaderLine appends the first line of a segment, with its newline.
func AppendHeaderLine(b []byte, h Header) ([]byte, error) {
	j, err := json.Marshal(h)
	if err != nil {
		return b, fmt.Errorf("evidence: render a segment header: %w", err)
	}
	return append(append(b, j...), '\n'), nil
}

const (
	recordStart = `{"i":`
	commitStart = `{"c":"`
	headerStart = `{"s":`
	hashStart   = `,"h":"`
	bodyStart   = `","r":`
	hashText    = 44 // characters of a SHA-256 hash in base64
)

// AppendRecordLine appends the line of one record, with its newline. record is
// taken verbatim and must have passed Look.
func AppendRecordLine(b []byte, index uint64, leaf Hash, record []byte) []byte {
	b = append(b, recordStart...)
	b = strconv.AppendUint(b, index, 10)
	b = append(b, hashStart...)
	b = base64.StdEncoding.AppendEncode(b, leaf[:])
	b = append(b, bodyStart...)
	b = append(b, record...)
	return append(b, '}', '\n')
}

// RecordLineSize bounds the length of the line of a record of n bytes.
func RecordLineSize(n int) int {
	return len(recordStart) + 20 + len(hashStart) + hashText + len(bodyStart) + n + 2
}

// AppendCommitLine appends the line that ends a batch: a signed checkpoint.
// unsynced says that the log does not wait for the disk (async).
func AppendCommitLine(b, signed []byte, unsynced bool) []byte {
	b = append(b, commitStart[:len(commitStart)-1]...)
	b = appendString(b, string(signed))
	if unsynced {
		b = append(b, `,"async":true`...)
	}
	return append(b, '}', '\n')
}

// Line is one line of a segment: exactly one of Header, Entry and Commit is set.
type Line struct {
	Header *Header
	Entry  *Entry
	Leaf   Hash   // of Entry
	Commit []byte // signed note
	Async  bool   // the batch was acknowledged before it was synced
}

// ParseLine reads a line without its newline. Entry.Record is a part of line, not
// a copy. It checks form only; see Verifier.
func ParseLine(line []byte) (Line, error) {
	switch {
	case bytes.HasPrefix(line, []byte(recordStart)):
		return parseRecordLine(line)
	case bytes.HasPrefix(line, []byte(commitStart)):
		var c struct {
			C     string `json:"c"`
			Async bool   `json:"async"`
		}
		if err := jsonv2.Unmarshal(line, &c); err != nil {
			return Line{}, fmt.Errorf("evidence: the line of a checkpoint: %w", err)
		}
		// One spelling only, or a line could be changed unseen.
		if again := AppendCommitLine(nil, []byte(c.C), c.Async); string(again[:len(again)-1]) != string(line) {
			return Line{}, errors.New("evidence: the line of a checkpoint is not in its canonical form")
		}
		return Line{Commit: []byte(c.C), Async: c.Async}, nil
	case bytes.HasPrefix(line, []byte(headerStart)):
		h := new(Header)
		if err := jsonv2.Unmarshal(line, h); err != nil {
			return Line{}, fmt.Errorf("evidence: the header of a segment: %w", err)
		}
		if h.Version != Version {
			return Line{}, fmt.Errorf("evidence: the segment has format %d; this program reads %d: use a newer one", h.Version, Version)
		}
		if again, err := AppendHeaderLine(nil, *h); err != nil || string(again[:len(again)-1]) != string(line) {
			return Line{}, errors.New("evidence: the header of a segment is not in its canonical form")
		}
		return Line{Header: h}, nil
	}
	return Line{}, errors.New("evidence: neither a record, nor a checkpoint, nor a header")
}

func parseRecordLine(line []byte) (Line, error) {
	bad := errors.New("evidence: the line of a record is malformed")
	index, i, ok := lineIndex(line)
	if !ok {
		return Line{}, bad
	}
	rest := line[i:]
	if len(rest) < len(hashStart)+hashText+len(bodyStart)+3 || string(rest[:len(hashStart)]) != hashStart {
		return Line{}, bad
	}
	text := rest[len(hashStart) : len(hashStart)+hashText]
	rest = rest[len(hashStart)+hashText:]
	if string(rest[:len(bodyStart)]) != bodyStart || rest[len(rest)-1] != '}' {
		return Line{}, bad
	}
	e := &Entry{Index: index, LeafHash: string(text), Record: rest[len(bodyStart) : len(rest)-1]}
	leaf, err := parseHash(e.LeafHash)
	if err != nil {
		return Line{}, bad
	}
	return Line{Entry: e, Leaf: leaf}, nil
}

// LineIndex reads the index of a record's line; false for other lines. It needs
// only the line's first 26 bytes.
func LineIndex(line []byte) (uint64, bool) {
	index, _, ok := lineIndex(line)
	return index, ok
}

// lineIndex also gives the position behind the number.
func lineIndex(line []byte) (uint64, int, bool) {
	if !bytes.HasPrefix(line, []byte(recordStart)) {
		return 0, 0, false
	}
	i := len(recordStart)
	end := scanDigits(line, i)
	if end == i || end-i > 20 || end >= len(line) || (line[i] == '0' && end-i > 1) {
		return 0, 0, false
	}
	n, err := strconv.ParseUint(string(line[i:end]), 10, 63)
	if err != nil {
		return 0, 0, false
	}
	return n, end, true
}

// parseHash reads the one spelling of a hash: base64 has unused bits, which
// decoders ignore.
func parseHash(s string) (Hash, error) {
	h, err := tlog.ParseHash(s)
	if err != nil {
		return h, err
	}
	if h.String() != s {
		return h, errors.New("malformed hash")
	}
	return h, nil
}
