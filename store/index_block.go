package store

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	jsonv2 "github.com/go-json-experiment/json"

	"github.com/actpass/sidecar/evidence"
)

// blockSize is how many records of the log one row of the index covers.
const blockSize = 1024

// What queries filter by, besides time and place.
const (
	colTenant = iota
	colKind
	colTool
	colAgent
	colDecision
	colReason
	colState  // of the last outcome
	numMasked // the columns so far are in a block's summary
)

// What events are counted by besides, see rollup.
const (
	colMode = iota + numMasked
	colEnforcement
	colWouldEnforce // "" where the mode is as strict already
	colWouldStrict
	colMapping // one of the Mapping constants
	numColumns
)

// block is what the index knows about the events among blockSize records that
// follow each other. The records themselves stay in the log.
type block struct {
	number uint64 // index of its first record / blockSize
	end    uint64 // index of the record behind the last one that was looked at
	rows   []blockRow
	words  []string // what the rows' columns point to
	ids    map[string]uint16
	dirty  bool
}

// blockRow is one event.
type blockRow struct {
	key     eventKey
	time    int64  // microseconds since 1970 UTC
	outcome uint64 // index of the record of the last outcome, and 1; 0: none
	at      uint16 // place in the block
	cols    [numColumns]uint16
}

// eventKey stands for an event's id: the UUID in it, so that keys that were made
// at one time are close to each other. Any other text is hashed.
type eventKey [16]byte

func keyOf(id []byte) (k eventKey) {
	// ev_xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx
	if len(id) == 39 && string(id[:3]) == "ev_" && id[11] == '-' && id[16] == '-' && id[21] == '-' && id[26] == '-' {
		var digits [32]byte
		n := copy(digits[:], id[3:11])
		n += copy(digits[n:], id[12:16])
		n += copy(digits[n:], id[17:21])
		n += copy(digits[n:], id[22:26])
		copy(digits[n:], id[27:])
		if _, err := hex.Decode(k[:], digits[:]); err == nil {
			return k
		}
	}
	sum := sha256.Sum256(id)
	return eventKey(sum[:16])
}

func newBlock(number uint64) *block {
	return &block{number: number, end: number * blockSize, ids: map[string]uint16{}}
}

// word gives the number of a column's value in this block.
func (b *block) word(v []byte) uint16 {
	if n, ok := b.ids[string(v)]; ok {
		return n
	}
	n := uint16(len(b.words)) // at most blockSize values for each column
	s := string(v)
	b.words = append(b.words, s)
	b.ids[s] = n
	return n
}

// add takes in an event's record.
func (b *block) add(index uint64, r *reading) *blockRow {
	row := blockRow{key: keyOf(r.id), time: r.time, at: uint16(index % blockSize)}
	for c, v := range r.cols {
		row.cols[c] = b.word(v)
	}
	b.rows = append(b.rows, row)
	return &b.rows[len(b.rows)-1]
}

// settle takes in an event's outcome.
func (b *block) settle(row *blockRow, index uint64, r *reading) {
	row.cols[colState], row.outcome, b.dirty = b.word(r.cols[colState]), index+1, true
}

func (b *block) index(row *blockRow) uint64 { return b.number*blockSize + uint64(row.at) }

// summary bounds what a block holds, so that a query can pass it by.
type summary struct {
	minTime, maxTime int64
	minKey, maxKey   eventKey
	masks            [numMasked]uint64 // one bit for each value's hash
	pairs            pairSet
}

func (b *block) summary() summary {
	var s summary
	for i := range b.rows {
		r := &b.rows[i]
		if i == 0 {
			s.minTime, s.maxTime, s.minKey, s.maxKey = r.time, r.time, r.key, r.key
		}
		s.minTime, s.maxTime = min(s.minTime, r.time), max(s.maxTime, r.time)
		if string(r.key[:]) < string(s.minKey[:]) {
			s.minKey = r.key
		}
		if string(r.key[:]) > string(s.maxKey[:]) {
			s.maxKey = r.key
		}
	}
	bits := make([]uint64, len(b.words))
	for i, w := range b.words {
		bits[i] = maskBit(w)
	}
	for i := range b.rows {
		for c := range s.masks {
			s.masks[c] |= bits[b.rows[i].cols[c]]
		}
	}
	s.pairs = b.pairs()
	return s
}

// maskBit is the bit that stands for a value in a summary: FNV-1a, because it is
// kept on disk.
func maskBit(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return 1 << (h >> 58)
}

const rowSize = 16 + 8 + 8 + 2 + 2*numColumns

// encode gives the block's content: the words, each with its length, then the
// rows, in little endian.
func (b *block) encode() []byte {
	size := 2*binary.MaxVarintLen64 + len(b.rows)*rowSize
	for _, w := range b.words {
		size += binary.MaxVarintLen64 + len(w)
	}
	buf := make([]byte, 0, size)
	buf = binary.AppendUvarint(buf, uint64(len(b.words)))
	for _, w := range b.words {
		buf = append(binary.AppendUvarint(buf, uint64(len(w))), w...)
	}
	buf = binary.AppendUvarint(buf, uint64(len(b.rows)))
	for i := range b.rows {
		r := &b.rows[i]
		buf = append(buf, r.key[:]...)
		buf = binary.LittleEndian.AppendUint64(buf, uint64(r.time))
		buf = binary.LittleEndian.AppendUint64(buf, r.outcome)
		buf = binary.LittleEndian.AppendUint16(buf, r.at)
		for _, c := range r.cols {
			buf = binary.LittleEndian.AppendUint16(buf, c)
		}
	}
	return buf
}

// decodeBlock reads what encode wrote. An error means that the index is damaged.
func decodeBlock(number uint64, buf []byte) (*block, error) {
	damaged := func() (*block, error) {
		return nil, fmt.Errorf("%w: block %d is damaged", errOtherSchema, number)
	}
	b := newBlock(number)
	next := func(limit int) (int, bool) {
		v, n := binary.Uvarint(buf)
		if n <= 0 || v > uint64(limit) {
			return 0, false
		}
		buf = buf[n:]
		return int(v), true
	}
	words, ok := next(blockSize * numColumns)
	if !ok {
		return damaged()
	}
	b.words = make([]string, words)
	for i := range b.words {
		n, ok := next(len(buf))
		if !ok || n > len(buf) {
			return damaged()
		}
		b.words[i] = string(buf[:n])
		buf = buf[n:]
	}
	rows, ok := next(blockSize)
	if !ok || len(buf) != rows*rowSize {
		return damaged()
	}
	b.rows = make([]blockRow, rows)
	for i := range b.rows {
		r := &b.rows[i]
		copy(r.key[:], buf)
		r.time = int64(binary.LittleEndian.Uint64(buf[16:]))
		r.outcome = binary.LittleEndian.Uint64(buf[24:])
		r.at = binary.LittleEndian.Uint16(buf[32:])
		for c := range r.cols {
			if r.cols[c] = binary.LittleEndian.Uint16(buf[34+2*c:]); int(r.cols[c]) >= words {
				return damaged()
			}
		}
		if r.at >= blockSize {
			return damaged()
		}
		buf = buf[rowSize:]
	}
	return b, nil
}

// know makes the words findable, for a block that is going to grow.
func (b *block) know() {
	for i, w := range b.words {
		b.ids[w] = uint16(i)
	}
}

// reading is what the index takes from a record. Its values belong to the record.
type reading struct {
	id   []byte // of the event
	of   []byte // the event that an outcome completes
	time int64
	cols [numColumns][]byte
}

// read looks at one record; false for one that this version cannot read.
func (r *reading) read(record []byte) bool {
	*r = reading{}
	good := true
	var rule, caller bool
	err := evidence.Members(record, func(key, val []byte) {
		var to *[]byte
		switch string(key) {
		case `"kind"`:
			to = &r.cols[colKind]
		case `"id"`:
			to = &r.id
		case `"event_id"`:
			to = &r.of
		case `"tenant_id"`:
			to = &r.cols[colTenant]
		case `"agent_id"`:
			to = &r.cols[colAgent]
		case `"tool"`:
			to = &r.cols[colTool]
		case `"decision"`:
			to = &r.cols[colDecision]
		case `"reason_code"`:
			to = &r.cols[colReason]
		case `"mode"`:
			to = &r.cols[colMode]
		case `"enforcement"`:
			to = &r.cols[colEnforcement]
		case `"door"`:
			caller = string(val) == `"api"`
			return
		case `"mapping_rule"`:
			rule = true
			return
		case `"would"`:
			if len(val) == 0 || val[0] != '{' {
				return
			}
			err := evidence.Members(val, func(key, val []byte) {
				switch string(key) {
				case `"enforce"`:
					good = unquote(val, &r.cols[colWouldEnforce]) && good
				case `"strict"`:
					good = unquote(val, &r.cols[colWouldStrict]) && good
				}
			})
			good = good && err == nil
			return
		case `"time"`:
			t, err := time.Parse(time.RFC3339Nano, strings.Trim(string(val), `"`))
			r.time = t.UnixMicro()
			good = good && err == nil
			return
		case `"outcome"`:
			if len(val) == 0 || val[0] != '{' {
				return
			}
			err := evidence.Members(val, func(key, val []byte) {
				if string(key) == `"state"` {
					good = unquote(val, &r.cols[colState]) && good
				}
			})
			good = good && err == nil
			return
		default:
			return
		}
		good = unquote(val, to) && good
	})
	switch {
	case rule:
		r.cols[colMapping] = []byte(MappingRule)
	case caller:
		r.cols[colMapping] = []byte(MappingCaller)
	default:
		r.cols[colMapping] = []byte(MappingNone)
	}
	return err == nil && good && len(r.cols[colKind]) > 0
}

func (r *reading) outcome() bool { return string(r.cols[colKind]) == evidence.KindOutcome }

// unquote gives the text of a JSON string.
func unquote(val []byte, to *[]byte) bool {
	if len(val) < 2 || val[0] != '"' {
		return false
	}
	text := val[1 : len(val)-1]
	for _, c := range text {
		if c == '\\' {
			var s string
			if err := jsonv2.Unmarshal(val, &s); err != nil {
				return false
			}
			text = []byte(s)
			break
		}
	}
	*to = text
	return true
}
