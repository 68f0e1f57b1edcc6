package launch

import (
	"bytes"
	"crypto/sha1" // the format's own checksum, under a password that is public anyway
	"encoding/binary"
	"fmt"
	"unicode/utf16"
)

// trustPassword protects nothing: Java wants a password to check the store's checksum, and this is the customary one.
const trustPassword = "changeit"

// encodeJKS writes certificates (DER) as a Java KeyStore of trusted entries, so that no keytool, which takes half a second a
// certificate, is needed. Every Java reads the format; it is defined by sun.security.provider.JavaKeyStore:
//
//	u32 magic 0xfeedfeed, u32 version 2, u32 count
//	count × { u32 tag 2 (trusted certificate), utf alias, u64 milliseconds, utf "X.509", u32 length, DER }
//	SHA-1 over password (UTF-16BE), "Mighty Aphrodite" and all of the above
//
// where utf is a u16 length and that many bytes. Aliases are actpass-0, actpass-1, ...; the date is the epoch, so that equal
// roots give equal bytes.
func encodeJKS(certs [][]byte) []byte {
	var b bytes.Buffer
	u32 := func(v int) { _ = binary.Write(&b, binary.BigEndian, uint32(v)) }
	utf := func(s string) {
		_ = binary.Write(&b, binary.BigEndian, uint16(len(s)))
		b.WriteString(s)
	}
	u32(0xfeedfeed)
	u32(2)
	u32(len(certs))
	for i, der := range certs {
		u32(2)
		utf(fmt.Sprintf("actpass-%d", i))
		_ = binary.Write(&b, binary.BigEndian, uint64(0))
		utf("X.509")
		u32(len(der))
		b.Write(der)
	}
	sum := sha1.New()
	for _, unit := range utf16.Encode([]rune(trustPassword)) {
		_ = binary.Write(sum, binary.BigEndian, unit)
	}
	sum.Write([]byte("Mighty Aphrodite"))
	sum.Write(b.Bytes())
	b.Write(sum.Sum(nil))
	return b.Bytes()
}
