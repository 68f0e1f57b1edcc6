package mapping

import (
	"bytes"
	"strings"
)

// What asks a framework for another call than the first line of the request says.

// samePath says whether a header by which some servers (Symfony, Zend, IIS with its
// rewrite module) find the path only repeats the target.
func samePath(value, target string) bool {
	path, _, _ := strings.Cut(target, "?")
	return value == target || value == path
}

// overridden are the methods that _method can ask for: frameworks obey it in a
// POST alone.
var overridden = []string{"PUT", "PATCH", "DELETE"}

// stakes looks whether a method in the body, which no reader looks at here, would
// make another call of the request.
func (m *Match) stakes(segs []string) {
	if m.Method != "POST" || m.req.ContentLength == 0 || m.req.Upgrade != "" || m.Rule != nil && m.Rule.kind.reads() {
		return
	}
	if m.bodyMedia() == "" {
		return
	}
	for _, method := range overridden {
		if e, found := m.lookUp(method, segs, false, false); found && (m.Rule == nil || e.rule.Tool != m.Rule.Tool) {
			m.atStake = e.rule.Tool
			return
		}
	}
}

// bodyMedia is the kind of body that frameworks look for _method in: form,
// multipart or json, "" for any other. Rack takes a body without a type for a form.
func (m *Match) bodyMedia() string {
	values := m.req.Header["Content-Type"]
	if len(values) == 0 {
		return "form"
	}
	for _, v := range values {
		media, _, _ := strings.Cut(v, ";")
		media = strings.ToLower(strings.TrimSpace(media))
		switch {
		case isForm(media):
			return "form"
		case media == "multipart/form-data":
			return "multipart"
		case isJSON(media):
			return "json"
		}
	}
	return ""
}

// hiddenMethod looks for _method in a body whose arguments nobody wants.
func (in *input) hiddenMethod(whole bool) {
	if !whole {
		in.amb = append(in.amb, tooLarge(ClassMethod, "the body may ask for the method of %s with _method, and was not read or is larger than may be inspected", in.m.atStake))
		return
	}
	body, ok := in.decoded()
	if !ok {
		return
	}
	hidden := false
	switch in.m.bodyMedia() {
	case "form":
		for pair := range strings.SplitSeq(string(body), "&") {
			name, _, _ := strings.Cut(pair, "=")
			hidden = hidden || methodField(decodeField(name))
		}
	case "multipart":
		const disposition = "content-disposition"
		low := bytes.ToLower(body)
		for at := bytes.Index(low, []byte(disposition)); at >= 0 && !hidden; at = bytes.Index(low, []byte(disposition)) {
			low = low[at+len(disposition):]
			head := low[:min(len(low), 1024)]
			if end := bytes.Index(head, []byte("\n\r\n")); end >= 0 {
				head = head[:end]
			}
			hidden = bytes.Contains(head, []byte("_method"))
		}
	case "json":
		if !bytes.Contains(bytes.ToLower(body), []byte("_method")) && !bytes.Contains(body, []byte(`\u`)) {
			return
		}
		v, err := parseJSON(body, new(input))
		if err != nil {
			in.amb = append(in.amb, *err)
			return
		}
		members, _ := v.(map[string]any)
		for name := range members {
			hidden = hidden || methodField(name)
		}
	}
	if hidden {
		in.flag(ClassMethod, "the body asks for another method with _method: with that it may be %s", in.m.atStake)
	}
}

// methodField says whether a field is the one that asks for another method.
func methodField(name string) bool {
	return len(name) >= len("_method") && looseName(baseName(name)) == "_method"
}

// methodQuery names the parameters of a query that ask for another method where
// their value is one: the header's name (several frameworks), Google's $httpMethod.
func methodQuery(name string) bool {
	switch strings.ReplaceAll(looseName(baseName(name)), "_", "-") {
	case "x-http-method-override", "x-http-method", "x-method-override", "$httpmethod", "$method", "httpmethod", "-httpmethod", "http-method", "-http-method", "--method":
		return true
	}
	return false
}

// askedMethod looks for _method among what a form says.
func (in *input) askedMethod(args map[string]any) {
	for name := range args {
		if methodField(name) {
			in.flag(ClassMethod, "the form asks for another method with _method")
			return
		}
	}
}
