package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"mime"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// understanding is how an origin read a request.
type understanding struct {
	Method string             `json:"method"`
	Host   string             `json:"host"`
	Path   string             `json:"path"` // decoded
	Query  map[string]reading `json:"query"`
	Body   map[string]reading `json:"body"`
	Error  string             `json:"error"` // nothing was understood
	Args   *string            `json:"-"`     // the query as it stands
	// QueryAmount and BodyAmount are what a server that has no other reader takes
	// for the parameter amount.
	QueryAmount, BodyAmount *string `json:"-"`
}

// reading is what one reader made of the arguments.
type reading struct {
	Pairs  [][2]string `json:"pairs"`  // names as they stand, brackets and all
	Nested any         `json:"nested"` // what brackets say
	JSON   any         `json:"json"`
	Struct any         `json:"struct"` // only the members that typed.example.test declares
	Files  [][3]any    `json:"files"`  // name, file name, size
	Error  string      `json:"error"`  // it refused
}

func readJSON(body []byte) (u understanding) {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if err := d.Decode(&u); err != nil {
		u.Error = fmt.Sprintf("%v in %.200q", err, body)
	}
	return u
}

// readLines reads the answers of nginx and HAProxy.
func readLines(body []byte) understanding {
	lines := strings.Split(string(body), "\n")
	if len(lines) < 5 {
		return understanding{Error: fmt.Sprintf("answered %q", body)}
	}
	u := understanding{Method: lines[0], Host: lines[1], Path: lines[2], Args: &lines[3], QueryAmount: &lines[4]}
	if len(lines) > 5 {
		u.BodyAmount = &lines[5]
	}
	return u
}

// goUnderstood is the Go origin.
func goUnderstood(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	form := func(s string) reading {
		values, err := url.ParseQuery(s)
		if err != nil {
			return reading{Error: err.Error()}
		}
		var out reading
		for _, k := range slices.Sorted(maps.Keys(values)) {
			for _, v := range values[k] {
				out.Pairs = append(out.Pairs, [2]string{k, v})
			}
		}
		return out
	}
	u := understanding{Method: r.Method, Host: r.Host, Path: r.URL.Path, Query: map[string]reading{"url.Values": form(r.URL.RawQuery)}}
	media, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case media == "application/x-www-form-urlencoded":
		u.Body = map[string]reading{"url.Values": form(string(body))}
	case media == "multipart/form-data":
		u.Body = map[string]reading{"mime/multipart": goMultipart(r, body)}
	case strings.Contains(media, "json"):
		d := json.NewDecoder(bytes.NewReader(body))
		d.UseNumber()
		var whole any
		var members struct {
			Amount   *json.Number `json:"amount,omitempty"`
			Customer *string      `json:"customer,omitempty"`
			Kind     *string      `json:"kind,omitempty"`
		}
		u.Body = map[string]reading{"encoding/json": {JSON: &whole}, "encoding/json struct": {Struct: &members}}
		if err := d.Decode(&whole); err != nil {
			u.Body["encoding/json"] = reading{Error: err.Error()}
		}
		if err := json.Unmarshal(body, &members); err != nil {
			u.Body["encoding/json struct"] = reading{Error: err.Error()}
		}
	}
	_ = json.NewEncoder(w).Encode(u)
}

func goMultipart(r *http.Request, body []byte) (out reading) {
	r.Body = io.NopCloser(bytes.NewReader(body))
	if err := r.ParseMultipartForm(1 << 20); err != nil {
		return reading{Error: err.Error()}
	}
	for k, values := range r.MultipartForm.Value {
		for _, v := range values {
			out.Pairs = append(out.Pairs, [2]string{k, v})
		}
	}
	for k, files := range r.MultipartForm.File {
		for _, f := range files {
			out.Files = append(out.Files, [3]any{k, f.Filename, f.Size})
		}
	}
	return out
}

// readBy says which kind of arguments the mapping of a host reads.
func readBy(tool, host, method, media string) string {
	if strings.HasPrefix(tool, "stripe.unknown.") {
		return "" // a net reads no arguments
	}
	switch strings.Split(host, ".")[0] {
	case "query":
		return "query"
	case "form":
		return "form"
	case "json", "typed":
		return "json"
	case "multipart", "upload":
		if strings.HasSuffix(media, "json") {
			return "json"
		}
		return "multipart"
	case "mcp":
		return "jsonrpc"
	case "graphql":
		return "graphql"
	case "aws":
		return "aws-query"
	case "aws-json":
		return "aws-json"
	case "api":
		switch {
		case method == "GET":
			return "query"
		case strings.HasSuffix(media, "json"):
			return "json"
		}
		return "form"
	}
	return ""
}

// typedKind says whether a kind of arguments tells numbers from texts.
func typedKind(kind string) bool {
	return kind == "json" || kind == "jsonrpc" || kind == "graphql" || kind == "aws-json"
}

// differences holds what an origin understood against what was judged. readers
// is how many readings there were to compare.
func (u understanding) differences(l left) (found []string, readers int) {
	differ := func(what string, judged, understood any) {
		found = append(found, fmt.Sprintf("%s: judged %q, understood %q", what, judged, understood))
	}
	req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(l.raw)))
	if err != nil {
		return []string{"what left is no request: " + err.Error()}, 0
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return []string{"what left is no request: " + err.Error()}, 0
	}
	e := l.event
	if u.Method != e.Request.Method {
		differ("the method", e.Request.Method, u.Method)
	}
	host, _, _ := net.SplitHostPort(e.Request.Authority)
	if h, _, err := net.SplitHostPort(u.Host); err == nil {
		u.Host = h
	}
	if !strings.EqualFold(u.Host, host) {
		differ("the host", host, u.Host)
	}
	path := decodedPath(e.Request.Path)
	if p, ok := strings.CutPrefix(e.Resource, "p:"); ok {
		path = "/" + decodedPath(p)
	}
	if u.Path != path {
		differ("the path", path, u.Path)
	}
	if u.Args != nil && *u.Args != req.URL.RawQuery {
		differ("the query", req.URL.RawQuery, *u.Args)
	}

	media, _, _ := mime.ParseMediaType(req.Header.Get("Content-Type"))
	kind := readBy(e.Tool, host, req.Method, media)
	typed := typedKind(kind)
	judged := members{}
	judged.flatten("", e.Args, typed)
	if encoding := req.Header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		kind = "" // the origins here unpack nothing
	}

	inQuery := kind == "query" || len(body) == 0 && (kind == "form" || kind == "aws-query")
	readings := u.Body
	if inQuery {
		readings = u.Query
	}
	if kind != "" && kind != "query" && len(body) == 0 && !inQuery {
		readings = nil
	}
	for _, name := range slices.Sorted(maps.Keys(readings)) {
		r := readings[name]
		if kind == "" || r.Error != "" {
			continue
		}
		got, want := r.members(kind, req), judged
		if got == nil {
			continue
		}
		if v, ok := got["base"]; ok && e.Tool == "upload.repo.merge" {
			got["base"] = strings.ToLower(v) // compared without case, so judged in lower case
		}
		if r.Struct != nil {
			if host != "typed.example.test" {
				continue
			}
			want = members{}
			for _, k := range []string{"amount", "customer", "kind"} {
				if v, ok := judged[k]; ok {
					want[k] = v
				}
			}
		}
		readers++
		for _, d := range want.against(got, kind, name) {
			found = append(found, name+": "+d)
		}
	}
	for _, single := range []struct {
		value *string
		there bool
		in    string
	}{{u.QueryAmount, inQuery, req.URL.RawQuery}, {u.BodyAmount, kind == "form" && len(body) > 0, string(body)}} {
		// Such a server knows a name only as it is spelt.
		// HAProxy has a buffer, and ends a query at a second question mark.
		if single.value == nil || len(single.in) > 32<<10 || strings.Contains(single.in, "?") || !single.there || !strings.HasPrefix(single.in, "amount=") && !strings.Contains(single.in, "&amount=") {
			continue
		}
		readers++
		if got, err := url.QueryUnescape(*single.value); err != nil || got != judged["amount"] && *single.value != judged["amount"] {
			differ("amount", judged["amount"], *single.value)
		}
	}
	return found, readers
}

// members lays a reading flat in the shape in which policy sees the kind. nil:
// there is nothing in it to compare.
func (r reading) members(kind string, req *http.Request) members {
	m := members{}
	switch {
	case r.Struct != nil:
		m.flatten("", r.Struct, true)
	case r.JSON != nil:
		v := r.JSON
		if list, ok := v.([]any); ok && kind == "json" {
			v = map[string]any{"items": list}
		}
		object, isObject := v.(map[string]any)
		if !isObject {
			return nil // a batch is several calls, and the event tells of one
		}
		switch kind {
		case "jsonrpc":
			params, _ := object["params"].(map[string]any)
			if object["method"] == "tools/call" {
				v = params["arguments"]
			} else {
				if params == nil {
					params = map[string]any{}
				}
				params["rpc_method"] = object["method"]
				v = params
			}
		case "graphql":
			v = map[string]any{"variables": object["variables"]}
			if object["variables"] == nil {
				return nil
			}
		case "aws-json":
			target := req.Header.Get("X-Amz-Target")
			object["action"] = target[strings.LastIndexByte(target, '.')+1:]
		}
		m.flatten("", v, true)
	case r.Nested != nil:
		m.flatten("", r.Nested, false)
	default:
		m.pairs(r.Pairs)
	}
	next := map[string]int{}
	for _, f := range r.Files {
		name := fmt.Sprint(f[0])
		if list, ok := strings.CutSuffix(name, "[]"); ok {
			next[list]++
			name = fmt.Sprintf("%s[%d]", list, next[list]-1)
		}
		m.pairs([][2]string{{name + "[filename]", fmt.Sprint(f[1])}, {name + "[bytes]", fmt.Sprint(f[2])}})
	}
	return m
}

// sameNumber says whether two numbers are one to readers that have only doubles
// for them: all but integers within 64 bits to most, and to JavaScript those too.
func sameNumber(reader, a, b string) bool {
	x, errX := strconv.ParseFloat(a, 64)
	y, errY := strconv.ParseFloat(b, 64)
	_, intA := strconv.ParseInt(a, 10, 64)
	_, intB := strconv.ParseInt(b, 10, 64)
	return errX == nil && errY == nil && x == y && (reader == "JSON.parse" || intA != nil || intB != nil)
}

// against gives the differences between what was judged and what a reader has.
func (m members) against(got members, kind, reader string) (found []string) {
	want := maps.Clone(m)
	switch kind {
	case "aws-query":
		want, got = want.dotted(), got.dotted()
		if v, ok := got["Action"]; ok {
			delete(got, "Action")
			got["action"] = v
		}
	case "graphql":
		for k := range want {
			if !strings.HasPrefix(k, "variables") {
				delete(want, k)
			}
		}
	case "multipart": // what the origins do not say of a file
		for k := range want {
			if strings.HasSuffix(k, under+"sha256") || strings.HasSuffix(k, under+"content_type") {
				delete(want, k)
			}
		}
	}
	for k, v := range want {
		// A record keeps the first members of what has very many, and says so.
		if path, cut := strings.CutSuffix(k, under+"_omitted"); cut {
			path = path[:max(strings.LastIndex(path, under), 0)]
			for g := range got {
				if _, there := want[g]; !there && strings.HasPrefix(g, path+under) {
					delete(got, g)
				}
			}
			delete(want, k)
			delete(got, strings.TrimSuffix(k, under+"_omitted")) // the element that says so stands for one
			continue
		}
		if v != hidden {
			continue
		}
		delete(want, k)
		for g := range got {
			if g == k || strings.HasPrefix(g, k+under) {
				delete(got, g)
			}
		}
	}
	switch {
	case strings.HasPrefix(reader, "_"):
		want = want.php()
	case reader == "qs":
		want, got = want.compact(), got.compact()
	}
	for _, k := range slices.Sorted(maps.Keys(want)) {
		v, there := got[k]
		if kind != "json" && !there && v == "" {
			continue
		}
		if !there || v != want[k] && !(typedKind(kind) && sameNumber(reader, want[k], v)) {
			found = append(found, fmt.Sprintf("%q: judged %q, understood %q (there: %v)", k, want[k], v, there))
		}
	}
	for _, k := range slices.Sorted(maps.Keys(got)) {
		if _, there := want[k]; !there {
			found = append(found, fmt.Sprintf("%q: not judged, understood %q", k, got[k]))
		}
	}
	return found
}
