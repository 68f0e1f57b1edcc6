package store

import (
	"bytes"
	"compress/flate"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"golang.org/x/mod/sumdb/note"
)

// The evidence of all sidecars in one database. Each ships its own log, after it is
// durable on its own disk; what is here is a copy under the log's own checkpoints, and
// its position in it is the sidecar's cursor: a shipment and the move of the cursor
// are one transaction, so after whatever crash the next one begins where the last
// ended, with no record lost and none twice.

// LogName says whose records a sidecar ships.
type LogName struct {
	PublicKey string // verifier key of the log's checkpoints, note format
	Source    string // what people call the machine
}

// Origin is the name of the log: its key's.
func (n LogName) Origin() (string, error) {
	v, err := note.NewVerifier(n.PublicKey)
	if err != nil {
		return "", misuse("%q is not a log's verifier key: %v", n.PublicKey, err)
	}
	return v.Name(), nil
}

// ErrElsewhere says that a shipment does not begin where the records that are here
// end: ask JoinLog where that is.
var ErrElsewhere = errors.New("the shipment does not follow what was shipped before")

// Bounds of one shipment. One record may be larger.
const (
	ShipRecords = 1000
	ShipBytes   = 1 << 20
)

// JoinLog makes the log known, and gives the position of the first record that is
// not here yet. Another log of the same name is refused.
func (p *Postgres) JoinLog(ctx context.Context, n LogName) (next uint64, err error) {
	origin, err := n.Origin()
	if err != nil {
		return 0, err
	}
	var key string
	err = p.transact(ctx, nil, func(b *batch) error {
		if err := b.run(`INSERT INTO evidence_logs (origin, public_key, source) VALUES (?, ?, ?)
			ON CONFLICT (origin) DO UPDATE SET source = excluded.source WHERE evidence_logs.public_key = excluded.public_key AND evidence_logs.source <> excluded.source`, origin, n.PublicKey, n.Source); err != nil {
			return err
		}
		var at int64
		err := b.row(`SELECT public_key, next FROM evidence_logs WHERE origin = ?`, []any{origin}, &key, &at)
		next = uint64(at)
		return err
	})
	if err == nil && key != n.PublicKey {
		err = fmt.Errorf("the database has records of another log that is named %s, with the key %s", origin, key)
	}
	return next, wrap(err, "join the shared evidence")
}

// Ship adds records of one log, the first of which stands at position first there,
// with the newest signed checkpoint that does not reach beyond them; nil: none.
// ErrElsewhere when first is not the next one. It is durable when it returns.
func (p *Postgres) Ship(ctx context.Context, n LogName, first uint64, records [][]byte, checkpoint []byte) error {
	origin, err := n.Origin()
	if err != nil {
		return err
	}
	if len(records) == 0 {
		return misuse("a shipment without records")
	}
	content, err := pack(records)
	if err != nil {
		return err
	}
	// One statement, so that the head's row, for which all sidecars stand in line, is
	// held while the server works and never while a sidecar waits for its turn on a busy
	// machine. Who does not follow what is here moves nothing, and so does a second run of
	// what was done.
	err = p.pg.write(ctx, func(b *batch) error {
		res, err := b.exec(`WITH log AS (
				UPDATE evidence_logs SET next = next + ?1, checkpoint = CASE WHEN ?2 = '' THEN checkpoint ELSE ?2 END, shipped_at = `+dbNow+`
				WHERE origin = ?3 AND public_key = ?4 AND next = ?5 RETURNING origin),
			head AS (UPDATE evidence_head SET seq = seq + ?1 WHERE id = 1 AND (SELECT count(*) FROM log) = 1 RETURNING seq)
			INSERT INTO evidence_batches (seq, records, origin, first, content) SELECT head.seq - ?1, ?1, log.origin, ?5, ?6 FROM head, log`,
			int64(len(records)), string(checkpoint), origin, n.PublicKey, int64(first), content)
		if err != nil {
			return err
		}
		if shipped, err := res.RowsAffected(); err != nil || shipped != 1 {
			return errors.Join(err, ErrElsewhere)
		}
		return nil
	})
	return wrap(err, "ship evidence")
}

func pack(records [][]byte) ([]byte, error) {
	var out bytes.Buffer
	z, err := flate.NewWriter(&out, flate.BestSpeed)
	if err != nil {
		return nil, fmt.Errorf("pack evidence: %w", err)
	}
	var head [binary.MaxVarintLen64]byte
	for _, r := range records {
		_, err = z.Write(head[:binary.PutUvarint(head[:], uint64(len(r)))])
		if err == nil {
			_, err = z.Write(r)
		}
		if err != nil {
			return nil, fmt.Errorf("pack evidence: %w", err)
		}
	}
	if err := z.Close(); err != nil {
		return nil, fmt.Errorf("pack evidence: %w", err)
	}
	return out.Bytes(), nil
}

// maxUnpacked bounds what a batch may swell to: whoever can write to the database
// must not be able to fill the memory of those who read.
const maxUnpacked = 64 << 20

func unpack(content []byte, count int64) ([][]byte, error) {
	damaged := func(why string) error { return fmt.Errorf("a batch of the shared evidence is damaged: %s", why) }
	raw, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(content)), maxUnpacked+1))
	switch {
	case err != nil:
		return nil, damaged(err.Error())
	case len(raw) > maxUnpacked:
		return nil, damaged("it is larger than any that is shipped")
	case count > int64(len(raw)):
		return nil, damaged("it has fewer records than it says")
	}
	records := make([][]byte, 0, count)
	for len(raw) > 0 {
		size, n := binary.Uvarint(raw)
		if n <= 0 || size > uint64(len(raw)-n) {
			return nil, damaged("a record is cut off")
		}
		raw = raw[n:]
		records = append(records, raw[:size:size])
		raw = raw[size:]
	}
	if int64(len(records)) != count {
		return nil, damaged(fmt.Sprintf("it has %d records, and says %d", len(records), count))
	}
	return records, nil
}
