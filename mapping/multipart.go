package mapping

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"unicode/utf8"
)

const maxParts = 1000

// readMultipart reads multipart/form-data (RFC 7578) as its strictest writer
// makes it: no preamble or epilogue, CRLF throughout, one Content-Disposition a
// part with quoted plain names, and the boundary nowhere else. Everything beyond
// is where parsers differ.
func readMultipart(in *input) {
	args := map[string]any{}
	if in.m.RawQuery != "" {
		in.flag(ClassSource, "there is a query string beside the form")
	}
	body, ok := in.decoded()
	if !ok {
		return
	}
	in.body = body
	params, ok := in.contentType(func(media string) bool { return media == "multipart/form-data" }, "multipart/form-data")
	if ok && len(body) > 0 {
		if boundary, ok := in.boundary(params); ok {
			in.parts(body, boundary, args)
		}
		in.foldClash(args)
		in.mangledClash(args)
		for k, v := range args {
			args[k] = in.unfold(v)
		}
	}
	in.charsetField(args)
	in.askedMethod(args)
	in.add(args, true)
}

// file keeps an uploaded file apart from an object that brackets build.
type file map[string]any

func (in *input) boundary(params string) (string, bool) {
	found := ""
	for p := range strings.SplitSeq(params, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(p), "=")
		if !strings.EqualFold(name, "boundary") {
			if name != "" && !strings.EqualFold(name, "charset") {
				in.flag(ClassContentType, "the content type has the parameter %s", show(name))
			}
			continue
		}
		if found != "" {
			in.flag(ClassContentType, "the content type has two boundaries")
			return "", false
		}
		if n := len(value); n >= 2 && value[0] == '"' && value[n-1] == '"' {
			value = value[1 : n-1]
		}
		found = value
		if value == "" || len(value) > 70 || strings.Trim(value, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ'()+_,-./:=?") != "" {
			in.flag(ClassContentType, "the boundary is not one of RFC 2046")
			return "", false
		}
	}
	if found == "" {
		in.flag(ClassContentType, "the content type names no boundary")
	}
	return found, found != ""
}

func (in *input) parts(body []byte, boundary string, args map[string]any) {
	bad := func(what string) { in.flag(ClassBody, "the multipart body %s", what) }
	open := []byte("--" + boundary)
	if !bytes.HasPrefix(body, open) {
		bad("does not begin with its boundary")
		return
	}
	rest := body[len(open):]
	separator := []byte("\r\n--" + boundary)
	delimiters := 1
	for n := 0; ; n++ {
		if bytes.HasPrefix(rest, []byte("--")) {
			if tail := rest[2:]; len(tail) > 0 && string(tail) != "\r\n" {
				bad("goes on after its end")
			}
			break
		}
		if n == maxParts {
			in.amb = append(in.amb, tooLarge(ClassBody, "the multipart body has more than %d parts", maxParts))
			return
		}
		if !bytes.HasPrefix(rest, []byte("\r\n")) {
			bad("has a boundary with something behind it")
			return
		}
		rest = rest[2:]
		end := bytes.Index(rest, separator)
		if end < 0 {
			bad("has no end")
			return
		}
		head, content, ok := bytes.Cut(rest[:end], []byte("\r\n\r\n"))
		if !ok {
			bad("has a part without an end to its headers")
			return
		}
		in.part(string(head), content, args)
		rest = rest[end+len(separator):]
		delimiters++
	}
	if bytes.Count(body, open) != delimiters {
		bad("has its boundary inside a part")
	}
}

func (in *input) part(head string, content []byte, args map[string]any) {
	bad := func(what string, a ...any) { in.flag(ClassBody, "a part of the multipart body "+what, a...) }
	name, filename, contentType := "", "", ""
	isFile, disposed := false, false
	for line := range strings.SplitSeq(head, "\r\n") {
		if strings.IndexFunc(line, func(r rune) bool { return r < ' ' || r == 0x7f }) >= 0 || !utf8.ValidString(line) {
			bad("has a header with a control character or broken UTF-8")
			return
		}
		key, value, ok := strings.Cut(line, ":")
		if !ok || !token(key) {
			bad("has a broken header")
			return
		}
		value = strings.TrimSpace(value)
		switch strings.ToLower(key) {
		case "content-disposition":
			if disposed {
				bad("has two dispositions")
				return
			}
			disposed = true
			if name, filename, isFile, ok = disposition(value); !ok {
				bad("has a disposition that parsers read differently: %s", show(value))
			}
		case "content-type":
			if contentType != "" {
				bad("has two content types")
			}
			contentType = value
		case "content-length":
		case "content-transfer-encoding":
			if low := strings.ToLower(value); low != "binary" && low != "8bit" && low != "7bit" {
				bad("is encoded as %s", show(value))
			}
		default:
			bad("has the header %s", show(key))
		}
	}
	if name == "" {
		bad("has no name")
		return
	}
	if name != strings.TrimSpace(name) {
		bad("has a name that begins or ends with a space, which some servers drop: %s", show(name))
	}
	if isFile {
		switch {
		case filename == "" && len(content) > 0:
			bad("has an empty file name: %s is a file to some servers, a field to others, and nothing to the rest", show(name))
		case strings.IndexByte(filename, '/') >= 0:
			bad("has a path for a file name, of which most servers keep the last part: %s", show(filename))
		}
		sum := sha256.Sum256(content)
		in.field(args, name, file{"filename": filename, "content_type": contentType, "bytes": int64(len(content)), "sha256": hex.EncodeToString(sum[:])})
		return
	}
	if low := strings.ToLower(contentType); low != "" && low != "text/plain" && low != "text/plain; charset=utf-8" && low != "text/plain;charset=utf-8" {
		in.flag(ClassContentType, "the field %s is of the content type %s", show(name), show(contentType))
	}
	if !utf8.Valid(content) || bytes.IndexByte(content, 0) >= 0 {
		bad("is not valid UTF-8 text")
	}
	in.field(args, name, strings.ToValidUTF8(string(content), "\uFFFD"))
}

// field puts a text or a file where its name says.
func (in *input) field(args map[string]any, name string, value any) {
	if strings.Contains(name, "__proto__") {
		in.flag(ClassBody, "the field %s names a prototype", show(name))
	}
	if strings.ContainsAny(name, "[]") {
		in.bracketed(args, name, value, ClassBody)
		return
	}
	if _, dup := args[name]; dup {
		in.duplicate(name)
		return
	}
	args[name] = value
}

// disposition reads form-data; name="a"; filename="b". ok is false for anything
// but quoted plain texts.
func disposition(v string) (name, filename string, isFile, ok bool) {
	kind, rest, _ := strings.Cut(v, ";")
	ok = kind == "form-data"
	for rest != "" {
		rest = strings.TrimLeft(rest, " ")
		key, after, found := strings.Cut(rest, "=\"")
		value, tail, closed := strings.Cut(after, "\"")
		if !found || !closed || strings.ContainsAny(value, "\\%") {
			return name, filename, isFile, false
		}
		switch {
		case key == "name" && name == "":
			name = value
		case key == "filename" && !isFile:
			filename, isFile = value, true
		default:
			ok = false
		}
		if tail != "" && tail[0] != ';' {
			return name, filename, isFile, false
		}
		rest = strings.TrimPrefix(tail, ";")
	}
	return name, filename, isFile, ok && name != ""
}
