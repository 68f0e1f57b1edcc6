package mapping

import (
	"encoding/binary"
	"strings"
)

// rpcName gives the names in a path /package.Service/Method.
func rpcName(path string) (service, method string, ok bool) {
	i := strings.LastIndexByte(path, '/')
	if i <= 0 || i == len(path)-1 {
		return "", "", false
	}
	return path[strings.LastIndexByte(path[:i], '/')+1 : i], path[i+1:], true
}

// readGRPC names service and method of a path /package.Service/Method, and reads
// the message where a descriptor set knows the method. Without its schema a
// message says nothing, and passes unread.
func readGRPC(in *input) {
	in.contentType(func(media string) bool {
		return media == "application/grpc" || strings.HasPrefix(media, "application/grpc+") || strings.HasPrefix(media, "application/grpc-web")
	}, "application/grpc")
	if len(in.m.req.Header["Content-Type"]) == 0 {
		in.flag(ClassContentType, "there is no content type, and the rule reads application/grpc")
	}
	args := map[string]any{}
	service, method, ok := rpcName(in.m.Path)
	if !ok {
		in.flag(ClassPath, "the path is not /package.Service/Method")
	}
	if in.m.RawQuery != "" {
		in.flag(ClassQuery, "a gRPC call has no query")
	}
	if ok && in.m.rpc != nil {
		if message, ok := in.rpcMessage(); ok {
			p := protoParser{in: in}
			args = p.message(message, in.m.rpc.input, 0)
		}
	}
	if ok {
		// The names that policy goes by are the path's: a field of the same name
		// stands aside.
		for _, own := range []string{"service", "method"} {
			if v, there := args[own]; there {
				if _, taken := args[own+"_"]; taken {
					in.flag(ClassDuplicate, "the message has the fields %s and %s_, which are one argument", own, own)
				}
				args[own+"_"] = v
			}
		}
		args["service"], args["method"] = service, method
	}
	in.add(args, false)
}

// rpcMessage takes the one message out of its frame: a flag for compression, its
// length in four bytes, and itself (gRPC over HTTP/2, Length-Prefixed-Message).
func (in *input) rpcMessage() ([]byte, bool) {
	media, _, _ := strings.Cut(first(in.m.req.Header["Content-Type"]), ";")
	switch strings.ToLower(strings.TrimSpace(media)) {
	case "application/grpc", "application/grpc+proto", "application/grpc-web", "application/grpc-web+proto":
	default:
		in.flag(ClassContentType, "the messages are encoded as %s, and only protobuf is read", show(media))
		return nil, false
	}
	if e := in.m.req.Header["Content-Encoding"]; len(e) > 1 || len(e) == 1 && !strings.EqualFold(e[0], "identity") {
		in.flag(ClassEncoding, "the body of a gRPC call has a content encoding, which many servers do not look at")
		return nil, false
	}
	b := in.body
	if len(b) < 5 {
		in.flag(ClassBody, "the body holds no gRPC message")
		return nil, false
	}
	compressed, size := b[0], binary.BigEndian.Uint32(b[1:5])
	switch b = b[5:]; {
	case uint64(size) > uint64(len(b)):
		in.flag(ClassBody, "the gRPC message is shorter than its frame says")
		return nil, false
	case uint64(size) < uint64(len(b)):
		in.flag(ClassBody, "something follows the gRPC message: only calls with one message can be judged by its fields")
		return nil, false
	}
	encoding := in.m.req.Header["Grpc-Encoding"]
	switch {
	case len(encoding) > 1:
		in.flag(ClassEncoding, "there is more than one grpc-encoding")
		return nil, false
	case compressed == 0:
		return b, true
	case compressed != 1 || len(encoding) == 0 || encoding[0] != "gzip":
		in.flag(ClassEncoding, "the gRPC message is compressed as %s (flag %d): only gzip and identity are read", show(first(encoding)), compressed)
		return nil, false
	}
	return in.gunzip(b)
}

func first(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[0]
}
