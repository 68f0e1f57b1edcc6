package evidence

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Proof shows that a record is in the tree of a checkpoint.
type Proof struct {
	Index      uint64
	Hashes     []Hash // RFC 6962 section 2.1.1, from the leaf upwards
	Checkpoint []byte // signed
}

// Check verifies that the record with that leaf hash is in the log of verifier.
func (p Proof) Check(leaf Hash, verifier note.Verifier) error {
	c, err := OpenCheckpoint(p.Checkpoint, verifier)
	if err != nil {
		return err
	}
	return checkInclusion(c, p.Index, leaf, p.Hashes)
}

func checkInclusion(c Checkpoint, index uint64, leaf Hash, hashes []Hash) error {
	if index >= c.Size {
		return fmt.Errorf("evidence: record %d is not among the %d records of the checkpoint", index, c.Size)
	}
	if err := tlog.CheckRecord(hashes, int64(c.Size), c.Root, int64(index), leaf); err != nil {
		return fmt.Errorf("evidence: record %d is not in the tree of the checkpoint: %w", index, err)
	}
	return nil
}

// CheckConsistency verifies that the log of the newer checkpoint begins with all
// the records of the older one (RFC 6962 section 2.1.2).
func CheckConsistency(older, newer Checkpoint, proof []Hash) error {
	if older.Origin != newer.Origin {
		return fmt.Errorf("evidence: checkpoints of two logs, %q and %q", older.Origin, newer.Origin)
	}
	if older.Size > newer.Size {
		return fmt.Errorf("evidence: the older checkpoint covers %d records, the newer one only %d", older.Size, newer.Size)
	}
	if older.Size == 0 {
		return nil // every log begins with nothing
	}
	if err := tlog.CheckTree(proof, int64(newer.Size), newer.Root, int64(older.Size), older.Root); err != nil {
		return fmt.Errorf("evidence: the log with %d records does not begin with the %d of the older checkpoint: %w", newer.Size, older.Size, err)
	}
	return nil
}

// BundleVersion of the format that this package writes and reads.
const BundleVersion = 1

type bundleHeader struct {
	Version    int    `json:"bundle"`
	Origin     string `json:"origin"`
	Key        string `json:"key"`
	Checkpoint string `json:"checkpoint"`
}

// AppendBundleHeader appends the first line of a bundle.
func AppendBundleHeader(b []byte, vkey string, signed []byte) ([]byte, error) {
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return b, fmt.Errorf("evidence: write a bundle: %w", err)
	}
	j, err := json.Marshal(bundleHeader{BundleVersion, verifier.Name(), vkey, string(signed)})
	if err != nil {
		return b, fmt.Errorf("evidence: write a bundle: %w", err)
	}
	return append(append(b, j...), '\n'), nil
}

// AppendBundleLine appends a record with its proof.
func AppendBundleLine(b []byte, e Entry, proof []Hash) []byte {
	b = append(b, recordStart...)
	b = strconv.AppendUint(b, e.Index, 10)
	b = append(b, hashStart...)
	b = append(b, e.LeafHash...)
	b = append(b, `","p":[`...)
	for i, h := range proof {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = append(b, h.String()...)
		b = append(b, '"')
	}
	b = append(b, `],"r":`...)
	b = append(b, e.Record...)
	return append(b, '}', '\n')
}

// BundleReport is what VerifyBundle found.
type BundleReport struct {
	PublicKey  string
	Checkpoint Checkpoint
	Records    uint64
}

// VerifyBundle checks every record of a bundle against the bundle's checkpoint,
// and gives each to record, when that is not nil. vkey is the verifier key that is
// known from elsewhere; with "" the bundle's own is used, which shows damage, not
// forgery. A record that is not what the log's key vouches for is a *Fault.
func VerifyBundle(r io.Reader, vkey string, record func(Entry) error) (BundleReport, error) {
	var rep BundleReport
	lines := bufio.NewReaderSize(r, 64<<10)
	head, err := bundleLine(lines)
	if errors.Is(err, io.EOF) {
		return rep, errors.New("evidence: read a bundle: it is empty")
	}
	if err != nil {
		return rep, err
	}
	var h bundleHeader
	if err := jsonv2.Unmarshal(head, &h); err != nil {
		return rep, fmt.Errorf("evidence: read the header of a bundle: %w", err)
	}
	if h.Version != BundleVersion {
		return rep, fmt.Errorf("evidence: the bundle has format %d; this program reads %d", h.Version, BundleVersion)
	}
	if again, err := AppendBundleHeader(nil, h.Key, []byte(h.Checkpoint)); err != nil || string(again[:len(again)-1]) != string(head) {
		return rep, errors.New("evidence: the header of the bundle is not in its canonical form: it was altered")
	}
	if vkey == "" {
		vkey = h.Key
	}
	if h.Key != vkey {
		return rep, fmt.Errorf("evidence: the bundle is of the key %q, not of %q", h.Key, vkey)
	}
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return rep, fmt.Errorf("evidence: the verifier key of a bundle: %w", err)
	}
	rep.PublicKey = vkey
	if rep.Checkpoint, err = OpenCheckpoint([]byte(h.Checkpoint), verifier); err != nil {
		return rep, err
	}
	last := int64(-1)
	for {
		line, err := bundleLine(lines)
		if errors.Is(err, io.EOF) {
			return rep, nil
		}
		if err != nil {
			return rep, err
		}
		e, err := checkBundleLine(line, rep.Checkpoint, last)
		if err != nil {
			return rep, err
		}
		last = int64(e.Index)
		rep.Records++
		if record != nil {
			if err := record(e); err != nil {
				return rep, err
			}
		}
	}
}

func checkBundleLine(line []byte, c Checkpoint, last int64) (Entry, error) {
	altered := func(why string) error {
		i, ok := LineIndex(line)
		if !ok {
			i = uint64(last + 1)
		}
		return &Fault{Index: i, EventID: findID(line), Reason: "it was altered: " + why}
	}
	head, record, ok := bytes.Cut(line, []byte(`],"r":`))
	if !ok || len(record) < 2 || record[len(record)-1] != '}' {
		return Entry{}, altered("its line is malformed")
	}
	record = record[:len(record)-1]
	var l struct {
		I uint64   `json:"i"`
		H string   `json:"h"`
		P []string `json:"p"`
	}
	if err := jsonv2.Unmarshal(append(bytes.Clone(head), ']', '}'), &l); err != nil {
		return Entry{}, altered("its line is malformed")
	}
	if int64(l.I) <= last {
		return Entry{}, &Fault{Index: l.I, EventID: findID(record), Reason: fmt.Sprintf("out of order: it stands behind record %d", last)}
	}
	leaf := LeafHash(record)
	if leaf.String() != l.H {
		return Entry{}, altered(fmt.Sprintf("its bytes have the hash %s, the bundle says %s", leaf, l.H))
	}
	proof := make([]Hash, len(l.P))
	for i, s := range l.P {
		h, err := parseHash(s)
		if err != nil {
			return Entry{}, altered("its proof is malformed")
		}
		proof[i] = h
	}
	if err := checkInclusion(c, l.I, leaf, proof); err != nil {
		return Entry{}, altered(reason(err))
	}
	e := Entry{Index: l.I, LeafHash: l.H, Record: bytes.Clone(record)}
	if again := AppendBundleLine(nil, e, proof); string(again[:len(again)-1]) != string(line) {
		return Entry{}, altered("its line is not in its canonical form")
	}
	// Whoever holds the key could have two readers see two things.
	if !jsontext.Value(record).IsValid() || record[0] != '{' {
		return Entry{}, &Fault{Index: l.I, EventID: findID(record), Reason: "it is not one JSON object in UTF-8 in which no name stands twice"}
	}
	return e, nil
}

// maxBundleLine bounds a line of a bundle: the largest record, and a proof.
const maxBundleLine = 4 << 20

func bundleLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case err == nil:
			return line[:len(line)-1], nil
		case errors.Is(err, bufio.ErrBufferFull):
			if len(line) > maxBundleLine {
				return nil, errors.New("evidence: read a bundle: a line is too long")
			}
		case errors.Is(err, io.EOF) && len(line) > 0:
			return nil, errors.New("evidence: read a bundle: the last line is cut off")
		default:
			if errors.Is(err, io.EOF) {
				return nil, io.EOF
			}
			return nil, fmt.Errorf("evidence: read a bundle: %w", err)
		}
	}
}
