package store

import (
	"context"
	"database/sql"
	"errors"
)

// SharedSecret reads what the sidecars of this database keep under a name, as it was
// sealed, with its version; 0: there is none.
func (p *Postgres) SharedSecret(ctx context.Context, name string) (sealed []byte, version uint64, err error) {
	var v int64
	err = p.row(ctx, `SELECT sealed, version FROM shared_secrets WHERE name = ?`, name).Scan(&sealed, &v)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, 0, nil
	}
	return sealed, uint64(v), wrap(err, "read a shared secret")
}

// PutSharedSecret replaces version was by the next; done is false when somebody else
// did that before. It is durable when it returns.
func (p *Postgres) PutSharedSecret(ctx context.Context, name string, sealed []byte, was uint64) (done bool, err error) {
	err = p.transact(ctx, nil, func(b *batch) error {
		query := `UPDATE shared_secrets SET sealed = ?2, version = version + 1 WHERE name = ?1 AND version = ?3`
		if was == 0 {
			query = `INSERT INTO shared_secrets (name, sealed, version) VALUES (?1, ?2, ?3 + 1) ON CONFLICT (name) DO NOTHING`
		}
		res, err := b.exec(query, name, sealed, int64(was))
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		done = n == 1
		return err
	})
	return done && err == nil, wrap(err, "keep a shared secret")
}
