package evidence

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// Checkpoint is what the log's key vouches for: these many records have this
// root (C2SP tlog-checkpoint).
type Checkpoint struct {
	Origin string    // the log's name, and the name of its key
	Size   uint64    // number of records
	Root   Hash      // of the tree over them
	Time   time.Time // when it was signed, by the log's own clock; an extension line
}

const timePrefix = "time "

// Sign renders the checkpoint as a signed note.
func (c Checkpoint) Sign(signer note.Signer) ([]byte, error) {
	b := make([]byte, 0, 160)
	b = append(b, c.Origin...)
	b = append(b, '\n')
	b = strconv.AppendUint(b, c.Size, 10)
	b = append(b, '\n')
	b = base64.StdEncoding.AppendEncode(b, c.Root[:])
	b = append(b, '\n')
	if !c.Time.IsZero() {
		b = append(b, timePrefix...)
		b = appendTime(b, c.Time)
		b = append(b, '\n')
	}
	signed, err := note.Sign(&note.Note{Text: string(b)}, signer)
	if err != nil {
		return nil, fmt.Errorf("evidence: sign a checkpoint: %w", err)
	}
	return signed, nil
}

// OpenCheckpoint reads a signed note, and fails unless verifier signed it and it
// is of verifier's log.
func OpenCheckpoint(signed []byte, verifier note.Verifier) (Checkpoint, error) {
	n, err := note.Open(signed, note.VerifierList(verifier))
	if err != nil {
		return Checkpoint{}, fmt.Errorf("evidence: open a checkpoint: %w", err)
	}
	for _, sig := range n.Sigs {
		// The unused bits of base64 are not signed.
		if raw, err := base64.StdEncoding.Strict().DecodeString(sig.Base64); err != nil || base64.StdEncoding.EncodeToString(raw) != sig.Base64 {
			return Checkpoint{}, errors.New("evidence: open a checkpoint: its signature is not in its canonical form")
		}
	}
	c, err := parseCheckpoint(n.Text)
	if err != nil {
		return Checkpoint{}, err
	}
	if c.Origin != verifier.Name() {
		return Checkpoint{}, fmt.Errorf("evidence: the checkpoint is of the log %q, not of %q", c.Origin, verifier.Name())
	}
	return c, nil
}

func parseCheckpoint(text string) (Checkpoint, error) {
	var c Checkpoint
	lines := strings.Split(text, "\n")
	// The text ends with a newline, so the last element is empty.
	if len(lines) < 4 || lines[len(lines)-1] != "" || lines[0] == "" {
		return c, errors.New("evidence: a checkpoint needs the lines origin, size and root")
	}
	c.Origin = lines[0]
	size, err := strconv.ParseUint(lines[1], 10, 63)
	if err != nil || strconv.FormatUint(size, 10) != lines[1] {
		return c, fmt.Errorf("evidence: %q is not the size of a checkpoint", lines[1])
	}
	c.Size = size
	if c.Root, err = parseHash(lines[2]); err != nil {
		return c, fmt.Errorf("evidence: the root of a checkpoint: %w", err)
	}
	for _, l := range lines[3 : len(lines)-1] {
		if s, ok := strings.CutPrefix(l, timePrefix); ok {
			if c.Time, err = time.Parse(TimeLayout, s); err != nil {
				return c, fmt.Errorf("evidence: the time of a checkpoint: %w", err)
			}
		}
	}
	return c, nil
}

// NewKey makes a log's signing key and the verifier key that belongs to it, both
// in the note format. The origin is the key's name.
func NewKey(rand io.Reader, origin string) (skey, vkey string, err error) {
	skey, vkey, err = note.GenerateKey(rand, origin)
	if err != nil {
		return "", "", fmt.Errorf("evidence: make a key for the log %q: %w", origin, err)
	}
	return skey, vkey, nil
}

// PublicKey gives the verifier key that belongs to a signing key.
func PublicKey(skey string) (string, error) {
	signer, err := note.NewSigner(skey)
	if err != nil {
		return "", fmt.Errorf("evidence: read the signing key: %w", err)
	}
	// PRIVATE+KEY+<name>+<hash>+<base64 of algorithm and seed>; base64 may hold
	// a plus sign itself.
	parts := strings.SplitN(skey, "+", 5)
	if len(parts) != 5 {
		return "", errors.New("evidence: read the signing key: it has not five parts")
	}
	raw, err := base64.StdEncoding.DecodeString(parts[4])
	if err != nil || len(raw) != 1+ed25519.SeedSize {
		return "", errors.New("evidence: read the signing key: its seed is malformed")
	}
	pub, ok := ed25519.NewKeyFromSeed(raw[1:]).Public().(ed25519.PublicKey)
	if !ok {
		return "", errors.New("evidence: read the signing key: it is not Ed25519")
	}
	vkey, err := note.NewEd25519VerifierKey(signer.Name(), pub)
	if err != nil {
		return "", fmt.Errorf("evidence: derive the verifier key: %w", err)
	}
	return vkey, nil
}
