package notify

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strconv"
	"strings"
	"time"
)

// Headers of a delivery and of a callback.
const (
	HeaderSignature = "ActPass-Signature"
	HeaderDelivery  = "ActPass-Delivery"
	HeaderEvent     = "ActPass-Event"
)

// Tolerance is how old a signature may be, and how far ahead of our clock.
const Tolerance = 5 * time.Minute

// ErrSignature says that a request is not signed as it must be. It does not say
// more to a caller than what the caller sent itself.
var ErrSignature = errors.New("the signature is not good")

// Sign gives the value of ActPass-Signature: t=UNIX,v1=HEX, where HEX is
// HMAC-SHA-256 over the time in decimal, a dot, and the body.
func Sign(secret []byte, at time.Time, body []byte) string {
	t := strconv.FormatInt(at.Unix(), 10)
	return "t=" + t + ",v1=" + hex.EncodeToString(mac(secret, t, ".", string(body)))
}

// Verify checks a value of ActPass-Signature. Several v1 may be there, while a
// secret is being replaced: one must be right. Another version is ignored.
func Verify(secret []byte, header string, body []byte, now time.Time) error {
	_, err := verify(secret, header, body, now)
	return err
}

// verify is Verify; sum is the right signature, however the header spelt it.
func verify(secret []byte, header string, body []byte, now time.Time) (sum []byte, err error) {
	var stamp string
	var signatures []string
	for _, part := range strings.Split(header, ",") {
		switch k, v, _ := strings.Cut(strings.TrimSpace(part), "="); k {
		case "t":
			if stamp != "" {
				return nil, ErrSignature
			}
			stamp = v
		case "v1":
			signatures = append(signatures, v)
		}
	}
	if err := fresh(stamp, now); err != nil {
		return nil, err
	}
	sum = mac(secret, stamp, ".", string(body))
	good := false
	for _, s := range signatures[:min(len(signatures), 5)] {
		good = same(s, sum) || good
	}
	if len(secret) == 0 || !good {
		return nil, ErrSignature
	}
	return sum, nil
}

// same compares a signature in hex with the right one, in constant time.
func same(text string, sum []byte) bool {
	got, err := hex.DecodeString(text)
	return err == nil && hmac.Equal(got, sum)
}

// fresh checks the time of a signature, in seconds since 1970.
func fresh(stamp string, now time.Time) error {
	at, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil || strconv.FormatInt(at, 10) != stamp {
		return ErrSignature
	}
	if age := now.Sub(time.Unix(at, 0)); age > Tolerance || age < -Tolerance {
		return ErrSignature
	}
	return nil
}

func mac(secret []byte, parts ...string) []byte {
	h := hmac.New(sha256.New, secret)
	for _, p := range parts {
		h.Write([]byte(p))
	}
	return h.Sum(nil)
}
