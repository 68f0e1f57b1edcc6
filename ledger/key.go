package ledger

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/actpass/sidecar/evidence"
)

const (
	keyName       = "key"     // signing key, note format, 0600
	publicKeyName = "key.pub" // verifier key, for those who verify without the lock
)

type keys struct {
	signer   note.Signer
	verifier note.Verifier
	public   string
	origin   string
}

// loadKeys reads the log's key, or makes it when the log is new. A log without
// its key is not gone on with: a second key in one log would look like a forgery.
func loadKeys(fsys fileSystem, dir string, isNew bool) (keys, error) {
	name := filepath.Join(dir, keyName)
	b, err := readFile(fsys, name)
	switch {
	case err == nil:
	case !errors.Is(err, fs.ErrNotExist):
		return keys{}, fmt.Errorf("ledger: read the signing key: %w", err)
	case !isNew:
		return keys{}, fmt.Errorf("ledger: the signing key %s is gone though the log has records: restore it, or move the log away to begin a new one", name)
	default:
		if b, err = makeKey(fsys, dir); err != nil {
			return keys{}, err
		}
	}
	skey := strings.TrimSpace(string(b))
	signer, err := note.NewSigner(skey)
	if err != nil {
		return keys{}, fmt.Errorf("ledger: read the signing key %s: %w", name, err)
	}
	vkey, err := evidence.PublicKey(skey)
	if err != nil {
		return keys{}, fmt.Errorf("ledger: %w", err)
	}
	if pub, err := readFile(fsys, filepath.Join(dir, publicKeyName)); err != nil || strings.TrimSpace(string(pub)) != vkey {
		if err := writeFile(fsys, filepath.Join(dir, publicKeyName), []byte(vkey+"\n"), 0o644, true); err != nil {
			return keys{}, err
		}
	}
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return keys{}, fmt.Errorf("ledger: read the verifier key: %w", err)
	}
	return keys{signer: signer, verifier: verifier, public: vkey, origin: signer.Name()}, nil
}

func makeKey(fsys fileSystem, dir string) ([]byte, error) {
	var id [8]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, fmt.Errorf("ledger: name the log: %w", err)
	}
	skey, _, err := evidence.NewKey(rand.Reader, "actpass/"+hex.EncodeToString(id[:]))
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	name := filepath.Join(dir, keyName)
	// O_EXCL on the final name: should two processes come here, one fails. A crash
	// before the sync can leave a cut-off key of a log without records; it is
	// refused as malformed, and nothing is lost with it.
	f, err := fsys.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("ledger: make the signing key: %w", err)
	}
	_, err = f.WriteAt([]byte(skey+"\n"), 0)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	// The directory may be as new as the key.
	if err == nil {
		err = fsys.SyncDir(dir)
	}
	if err == nil {
		err = fsys.SyncDir(filepath.Dir(dir))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("ledger: make the signing key: %w", err), fsys.Remove(name))
	}
	return []byte(skey), nil
}

// readPublicKey is for readers that hold no lock.
func readPublicKey(fsys fileSystem, dir string) (string, error) {
	b, err := readFile(fsys, filepath.Join(dir, publicKeyName))
	if err != nil {
		return "", fmt.Errorf("ledger: read the log's verifier key: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}
