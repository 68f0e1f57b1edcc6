package mapping

import "strings"

// readGRPC names service and method of a path /package.Service/Method. The
// message itself passes unread: without its schema it says nothing.
func readGRPC(in *input) {
	in.contentType(func(media string) bool {
		return media == "application/grpc" || strings.HasPrefix(media, "application/grpc+") || strings.HasPrefix(media, "application/grpc-web")
	}, "application/grpc")
	if len(in.m.req.Header["Content-Type"]) == 0 {
		in.flag(ClassContentType, "there is no content type, and the rule reads application/grpc")
	}
	args := map[string]any{}
	path := in.m.Path
	if i := strings.LastIndexByte(path, '/'); i > 0 && i < len(path)-1 {
		args["method"] = path[i+1:]
		args["service"] = path[strings.LastIndexByte(path[:i], '/')+1 : i]
	} else {
		in.flag(ClassPath, "the path is not /package.Service/Method")
	}
	if in.m.RawQuery != "" {
		in.flag(ClassQuery, "a gRPC call has no query")
	}
	in.add(args, true)
}
