package launch

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
)

// systemRoots are the places of the system's PEM bundle, as in crypto/x509: Debian, Fedora, openSUSE, RHEL, Alpine and
// macOS, FreeBSD, NixOS.
var systemRoots = []string{
	"/etc/ssl/certs/ca-certificates.crt",
	"/etc/pki/tls/certs/ca-bundle.crt",
	"/etc/ssl/ca-bundle.pem",
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
	"/etc/ssl/cert.pem",
	"/usr/local/share/certs/ca-root-nss.crt",
	"/etc/ssl/certs/ca-bundle.crt",
}

// roots is what the child trusts besides the sidecar, each certificate DER.
type roots struct {
	bundle    [][]byte
	nodeExtra [][]byte
	warnings  []string
}

// collectRoots reads the roots that the parent's runtimes would have used: SSL_CERT_FILE, else the first system bundle
// there is; and the files in the parent's other CA variables, so that a company root that only REQUESTS_CA_BUNDLE named is
// still known where a host is passed through uninspected.
func collectRoots(parent environment, system []string) (roots, error) {
	var r roots
	if name := parent["SSL_CERT_FILE"]; name != "" {
		data, err := os.ReadFile(name)
		if err != nil {
			return r, fmt.Errorf("read the roots that SSL_CERT_FILE names: %w; unset it or point it at a PEM file", err)
		}
		r.bundle = certificates(data)
	} else {
		for _, name := range system {
			data, err := os.ReadFile(name)
			if err == nil {
				r.bundle = certificates(data)
			}
			if len(r.bundle) > 0 {
				break
			}
		}
	}
	if len(r.bundle) == 0 {
		r.warnings = append(r.warnings, "no system roots were found: the child trusts only what the sidecar inspects; "+
			"install ca-certificates or set SSL_CERT_FILE if hosts are passed through")
	}
	for _, name := range caVariables {
		file := parent[name]
		if file == "" || name == "SSL_CERT_FILE" {
			continue
		}
		data, err := os.ReadFile(file)
		if err != nil {
			r.warnings = append(r.warnings, fmt.Sprintf("%s is replaced, and the roots it named are left out: %v", name, err))
			continue
		}
		found := certificates(data)
		r.bundle = union(r.bundle, found)
		if name == "NODE_EXTRA_CA_CERTS" {
			r.nodeExtra = found
		}
	}
	return r, nil
}

// certificates are the certificates in a PEM file, DER. Other blocks and blocks that are no certificate are left out, as
// the runtimes do.
func certificates(data []byte) [][]byte {
	var out [][]byte
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			return out
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		if _, err := x509.ParseCertificate(block.Bytes); err == nil {
			out = append(out, block.Bytes)
		}
	}
}

func union(a, b [][]byte) [][]byte {
	seen := make(map[string]bool, len(a)+len(b))
	out := make([][]byte, 0, len(a)+len(b))
	for _, list := range [][][]byte{a, b} {
		for _, der := range list {
			if !seen[string(der)] {
				seen[string(der)] = true
				out = append(out, der)
			}
		}
	}
	return out
}

func encodePEM(certs [][]byte) []byte {
	var b bytes.Buffer
	for _, der := range certs {
		// A bytes.Buffer takes every write.
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	return b.Bytes()
}
