package ledger

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"github.com/actpass/sidecar/evidence"
)

// copied is a copy of what a log has, without the first records of it.
func copied(t *testing.T, l *Log, without int) Copy {
	t.Helper()
	var first evidence.Tree
	gone, err := l.Read(0, without)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range gone {
		first.Add(evidence.LeafHash(e.Record))
	}
	return Copy{PublicKey: l.PublicKey(), Checkpoint: l.Checkpoint(), First: first, Temp: t.TempDir(), Read: func(from uint64, max int) ([]evidence.Entry, error) {
		if from < uint64(without) {
			return nil, nil
		}
		return l.Read(from, min(max, 3))
	}}
}

// TestCopy: a bundle of a copy is, byte for byte, the log's own, and a proof holds to
// the log's key; without its beginning the rest is proved as before.
func TestCopy(t *testing.T) {
	l := twoTenants(t)
	if err := l.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := bundle(t, l.ExportSelected, "acme")
	if got := bundle(t, copied(t, l, 0).ExportSelected, "acme"); !bytes.Equal(got, want) {
		t.Errorf("the copy's bundle\n%s\nis not the log's\n%s", got, want)
	}
	c := copied(t, l, 3)
	rep, err := evidence.VerifyBundle(bytes.NewReader(bundle(t, c.ExportSelected, "acme")), l.PublicKey(), func(e evidence.Entry) error {
		if e.Index < 3 {
			t.Errorf("record %d is in the bundle", e.Index)
		}
		return nil
	})
	if err != nil || rep.Records != 2 {
		t.Errorf("%d records of what is left, %v", rep.Records, err)
	}
	verifier := l.keys.verifier
	for _, index := range []uint64{3, 4, 7} {
		entries, err := l.Read(index, 1)
		if err != nil {
			t.Fatal(err)
		}
		p, err := c.Proof(index)
		if err == nil {
			err = p.Check(evidence.LeafHash(entries[0].Record), verifier)
		}
		if err != nil {
			t.Errorf("record %d: %v", index, err)
		}
	}
	for _, index := range []uint64{2, 8} {
		if _, err := c.Proof(index); !errors.Is(err, ErrUnsigned) {
			t.Errorf("record %d, which is not covered: %v", index, err)
		}
	}
}

// exportFunc is ExportSelected, of a log or of a copy.
type exportFunc = func(context.Context, io.Writer, Selection) (int, error)

func bundle(t *testing.T, export exportFunc, tenant string) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := export(t.Context(), &b, Selection{Tenant: tenant, Owns: nobodys}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestCopyIsNotBelieved: what is wrong with a copy gives no bundle and no proof.
func TestCopyIsNotBelieved(t *testing.T) {
	l := twoTenants(t)
	if err := l.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Copy){
		"another record": func(c *Copy) {
			read := c.Read
			c.Read = func(from uint64, max int) ([]evidence.Entry, error) {
				list, err := read(from, max)
				for i := range list {
					if list[i].Index == 4 {
						list[i].Record = bytes.Replace(list[i].Record, []byte("ev_a2"), []byte("ev_a3"), 1)
						list[i].LeafHash = evidence.LeafHash(list[i].Record).String()
					}
				}
				return list, err
			}
		},
		"a hole": func(c *Copy) {
			read := c.Read
			c.Read = func(from uint64, max int) ([]evidence.Entry, error) {
				if from > 3 {
					return nil, nil
				}
				return read(from, int(min(uint64(max), 4-from)))
			}
		},
		"another beginning": func(c *Copy) { c.First = evidence.Tree{}; c.First.Add(evidence.LeafHash([]byte("x"))) },
		"no checkpoint":     func(c *Copy) { c.Checkpoint = nil },
		"another checkpoint": func(c *Copy) {
			c.Checkpoint = bytes.Replace(c.Checkpoint, []byte("\n8\n"), []byte("\n7\n"), 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := copied(t, l, 0)
			spoil(&c)
			var b bytes.Buffer
			if n, err := c.ExportSelected(t.Context(), &b, Selection{Tenant: "acme", Owns: nobodys}); err == nil {
				t.Errorf("%d records were exported", n)
			}
			if _, err := c.Proof(5); err == nil {
				t.Error("a proof was given")
			}
		})
	}
}
