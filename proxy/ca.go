package proxy

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// Names of the CA's files in the data directory.
const (
	CACertFile = "ca.pem"
	CAKeyFile  = "ca-key.pem"
)

// caLifetime is how long a new CA is valid. Agents are told to trust it once;
// a short life would break them at a random later day.
const caLifetime = 10 * 365 * 24 * time.Hour

// CA is the sidecar's own certificate authority. It signs the leaf certificates
// of intercepted connections and nothing else. Whoever holds its key can
// impersonate any host towards the clients that trust it.
type CA struct {
	cert *x509.Certificate
	key  crypto.Signer // ECDSA or RSA
	pem  []byte
}

// PEM is the CA's certificate, to be handed to clients.
func (c *CA) PEM() []byte { return c.pem }

// Certificate is the CA's certificate, parsed.
func (c *CA) Certificate() *x509.Certificate { return c.cert }

// LoadOrCreateCA reads ca.pem and ca-key.pem in dir, or makes both when neither
// is there. A key that others may read is refused: it would let every local
// user impersonate every host.
//
// Creation writes the key first and under O_EXCL, so two processes that start
// together cannot both believe that theirs is the CA. A crash between the two
// files leaves a key without a certificate, which the next start reports.
func LoadOrCreateCA(dir string, now time.Time) (*CA, error) {
	certPath, keyPath := filepath.Join(dir, CACertFile), filepath.Join(dir, CAKeyFile)
	_, certErr := os.Lstat(certPath)
	_, keyErr := os.Lstat(keyPath)
	switch {
	case certErr == nil && keyErr == nil:
		return loadCA(certPath, keyPath, now)
	case errors.Is(certErr, fs.ErrNotExist) && errors.Is(keyErr, fs.ErrNotExist):
		if err := createCA(dir, certPath, keyPath, now); err != nil {
			return nil, err
		}
		return loadCA(certPath, keyPath, now)
	case certErr == nil && errors.Is(keyErr, fs.ErrNotExist):
		return nil, fmt.Errorf("load CA: %s is there but its key %s is not; restore the key, or remove the certificate to make a new CA", certPath, keyPath)
	case keyErr == nil && errors.Is(certErr, fs.ErrNotExist):
		return nil, fmt.Errorf("load CA: %s is there but its certificate %s is not; restore the certificate, or remove the key to make a new CA", keyPath, certPath)
	case certErr != nil && !errors.Is(certErr, fs.ErrNotExist):
		return nil, fmt.Errorf("load CA: %w", certErr)
	default:
		return nil, fmt.Errorf("load CA: %w", keyErr)
	}
}

func loadCA(certPath, keyPath string, now time.Time) (*CA, error) {
	st, err := os.Stat(keyPath)
	if err != nil {
		return nil, fmt.Errorf("load CA key: %w", err)
	}
	if perm := st.Mode().Perm(); perm&0o077 != 0 {
		return nil, fmt.Errorf("load CA key: %s has mode %04o, so others can read the key that impersonates every host; run: chmod 600 %s", keyPath, perm, keyPath)
	}
	return LoadCA(certPath, keyPath, now)
}

// minRSA is the smallest RSA key, in bits, that clients accept from a CA.
const minRSA = 2048

// LoadCA reads a CA that was made elsewhere: a self-signed certificate in PEM form,
// and its ECDSA or RSA key (PKCS #8, SEC 1 or PKCS #1). Who may read the files is up
// to whoever put them there: a mounted Secret looks open to all, and is not.
func LoadCA(certPath, keyPath string, now time.Time) (*CA, error) {
	certPEM, err := os.ReadFile(certPath)
	if err != nil {
		return nil, fmt.Errorf("load CA certificate: %w", err)
	}
	keyPEM, err := os.ReadFile(keyPath)
	if err != nil {
		return nil, fmt.Errorf("load CA key: %w", err)
	}
	block, _ := pem.Decode(certPEM)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("load CA certificate: %s holds no PEM certificate", certPath)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("load CA certificate %s: %w", certPath, err)
	}
	block, _ = pem.Decode(keyPEM)
	if block == nil {
		return nil, fmt.Errorf("load CA key: %s holds no PEM key", keyPath)
	}
	key, err := parseKey(block)
	if err != nil {
		return nil, fmt.Errorf("load CA key %s: %w", keyPath, err)
	}
	if pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("load CA: %s is not the key of %s", keyPath, certPath)
	}
	switch {
	case !cert.IsCA || cert.KeyUsage != 0 && cert.KeyUsage&x509.KeyUsageCertSign == 0:
		return nil, fmt.Errorf("load CA: %s is not a CA certificate", certPath)
	case cert.CheckSignatureFrom(cert) != nil:
		return nil, fmt.Errorf("load CA: %s is signed by another CA (%s), and most clients trust only a root: use a self-signed one", certPath, cert.Issuer)
	}
	if now.After(cert.NotAfter) {
		return nil, fmt.Errorf("load CA: %s expired on %s; remove it and its key to make a new CA", certPath, cert.NotAfter.Format(time.DateOnly))
	}
	return &CA{cert: cert, key: key, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})}, nil
}

// MemoryCA makes a CA that is written nowhere and ends with the process.
func MemoryCA(now time.Time) (*CA, error) {
	key, der, err := makeCA(now)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("create CA certificate: %w", err)
	}
	return &CA{cert: cert, key: key, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}, nil
}

func parseKey(block *pem.Block) (crypto.Signer, error) {
	var parsed any
	var err error
	switch block.Type {
	case "EC PRIVATE KEY":
		parsed, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		parsed, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	default:
		parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	}
	if err != nil {
		return nil, err
	}
	switch key := parsed.(type) {
	case *ecdsa.PrivateKey:
		return key, nil
	case *rsa.PrivateKey:
		if key.N.BitLen() < minRSA {
			return nil, fmt.Errorf("an RSA key of %d bits is too small: %d are needed", key.N.BitLen(), minRSA)
		}
		return key, nil
	}
	return nil, fmt.Errorf("it holds a %T, an ECDSA or RSA key is needed", parsed)
}

func makeCA(now time.Time) (key *ecdsa.PrivateKey, der []byte, err error) {
	key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("create CA key: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, nil, fmt.Errorf("create CA: %w", err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial,
		// The serial in the name keeps two sidecars' CAs apart in a trust store.
		Subject:               pkix.Name{Organization: []string{"ActPass Sidecar"}, CommonName: fmt.Sprintf("ActPass Sidecar CA %x", serial.Bytes()[:4])},
		NotBefore:             now.Add(-time.Hour).UTC(),
		NotAfter:              now.Add(caLifetime).UTC(),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err = x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return nil, nil, fmt.Errorf("create CA certificate: %w", err)
	}
	return key, der, nil
}

func createCA(dir, certPath, keyPath string, now time.Time) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("create CA: %w", err)
	}
	key, der, err := makeCA(now)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("create CA key: %w", err)
	}
	if err := writeNew(keyPath, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600); err != nil {
		return fmt.Errorf("create CA key: %w", err)
	}
	if err := writeNew(certPath, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		return fmt.Errorf("create CA certificate: %w", err)
	}
	return nil
}

func writeNew(path string, data []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		_ = f.Close()
		return err
	}
	if err := f.Sync(); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}

func newSerial() (*big.Int, error) {
	// 127 random bits: positive, and at most the 20 octets of RFC 5280 4.1.2.2.
	b := make([]byte, 16)
	if _, err := rand.Read(b); err != nil {
		return nil, err
	}
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b), nil
}
