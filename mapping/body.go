package mapping

import (
	"bytes"
	"compress/gzip"
	"io"
	"strings"
)

const (
	// maxDecoded is the largest body, decompressed, in bytes.
	maxDecoded = 8 << 20
	// maxRatio is how much larger a body may grow, beyond its first 256 KiB.
	maxRatio = 64
)

// decoded gives the body without its content encoding: identity or gzip, once.
func (in *input) decoded() ([]byte, bool) {
	values := in.m.req.Header["Content-Encoding"]
	if len(values) == 0 || len(in.body) == 0 {
		return in.body, true
	}
	if len(values) > 1 {
		return nil, false // reported with the head
	}
	switch strings.ToLower(strings.TrimSpace(values[0])) {
	case "identity", "":
		return in.body, true
	case "gzip", "x-gzip":
	default:
		in.flag(ClassEncoding, "the body is encoded as %s: only gzip and identity are read", show(values[0]))
		return nil, false
	}
	return in.gunzip(in.body)
}

// gunzip decompresses one gzip stream, within bounds.
func (in *input) gunzip(body []byte) ([]byte, bool) {
	src := bytes.NewReader(body)
	zr, err := gzip.NewReader(src)
	if err != nil {
		in.flag(ClassEncoding, "the body is no gzip")
		return nil, false
	}
	zr.Multistream(false)
	limit := min(maxDecoded, 256<<10+maxRatio*len(body))
	out, err := io.ReadAll(io.LimitReader(zr, int64(limit)+1))
	switch {
	case len(out) > limit:
		in.amb = append(in.amb, tooLarge(ClassEncoding, "the body is larger than may be inspected once decompressed"))
		return nil, false
	case err != nil:
		in.flag(ClassEncoding, "the body is broken gzip")
		return nil, false
	case src.Len() > 0:
		in.flag(ClassEncoding, "something follows the gzip stream")
		return nil, false
	}
	return out, true
}
