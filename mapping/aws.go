package mapping

import (
	"maps"
	"slices"
	"strings"
)

// readAWSQuery reads the AWS query protocol: Action and parameters as a form, or
// in the query of a request without a body. Dotted names nest: Filter.1.Name is
// args.Filter["1"].Name.
func readAWSQuery(in *input) {
	var args map[string]any
	body, ok := in.decoded()
	if !ok {
		return
	}
	in.body = body
	switch {
	case len(body) > 0:
		in.contentType(isForm, "application/x-www-form-urlencoded")
		args = in.form(string(body), ClassBody)
		if in.m.RawQuery != "" {
			in.flag(ClassSource, "there is a query string beside the form")
		}
	default:
		args = in.form(in.m.RawQuery, ClassQuery)
	}
	in.otherProtocol("X-Amz-Target")
	action, _ := args["Action"].(string)
	if action == "" {
		in.flag(ClassBody, "there is no Action")
	}
	for k := range args {
		if base, _, _ := strings.Cut(baseName(k), "."); k != "Action" && looseName(base) == "action" {
			in.flag(ClassDuplicate, "the parameter Action is spelt %s", show(k))
		}
		if credentialField(k) {
			delete(args, k)
		}
	}
	delete(args, "Action")
	nested := in.undot(args)
	nested["action"] = action
	in.rule = in.m.Rule.caseOf(action)
	in.add(nested, true)
}

// otherProtocol reports the header by which a service that speaks several protocols
// would take the request for one of another: SQS, for one, speaks query and JSON.
func (in *input) otherProtocol(names ...string) {
	for _, name := range append(names, "Smithy-Protocol") {
		if len(in.m.req.Header[name]) > 0 {
			in.flag(ClassSource, "the header %s is that of another protocol, which names its action elsewhere", name)
		}
	}
}

// credentialField names the parameters of a presigned AWS request.
func credentialField(k string) bool {
	switch k {
	case "Signature", "AWSAccessKeyId", "SecurityToken", "SignatureMethod", "SignatureVersion":
		return true
	}
	return strings.HasPrefix(k, "X-Amz-")
}

func (in *input) undot(flat map[string]any) map[string]any {
	out := make(map[string]any, len(flat)+1)
	for _, k := range slices.Sorted(maps.Keys(flat)) {
		at, rest := out, k
		for depth := 0; ; depth++ {
			name, after, more := strings.Cut(rest, ".")
			if !more || depth >= maxFormDepth {
				if _, taken := at[rest]; taken {
					in.duplicate(k)
				}
				at[rest] = flat[k]
				break
			}
			next, isMap := at[name].(map[string]any)
			if !isMap {
				if _, taken := at[name]; taken {
					in.duplicate(k)
					break
				}
				next = make(map[string]any)
				at[name] = next
			}
			at, rest = next, after
		}
	}
	return out
}

// readAWSJSON reads the AWS JSON protocol: the action stands in X-Amz-Target as
// Service_Version.Action, the parameters are the members of the body.
func readAWSJSON(in *input) {
	body, ok := in.decoded()
	if !ok {
		return
	}
	in.body = body
	_, typed := in.contentType(func(media string) bool {
		return media == "application/x-amz-json-1.0" || media == "application/x-amz-json-1.1" || media == "application/json"
	}, "application/x-amz-json-1.0 or 1.1")
	args := map[string]any{}
	if len(body) > 0 {
		v, err := parseJSON(body, in)
		members, isObject := v.(map[string]any)
		switch {
		case err != nil:
			if typed {
				in.amb = append(in.amb, *err)
			}
			return
		case !isObject:
			in.flag(ClassBody, "the JSON text is no object")
		default:
			args = members
		}
	}
	in.otherProtocol()
	targets := in.m.req.Header["X-Amz-Target"]
	if len(targets) != 1 || targets[0] == "" {
		in.flag(ClassHeader, "the request needs exactly one X-Amz-Target header")
	}
	in.clash(map[string]any{"Action": nil, "X-Amz-Target": nil})
	if _, clash := args["action"]; clash {
		in.flag(ClassDuplicate, "the body has a member action, which X-Amz-Target gives")
	}
	if len(targets) > 0 {
		action := targets[0][strings.LastIndexByte(targets[0], '.')+1:]
		args["action"] = action
		in.rule = in.m.Rule.caseOf(action)
	}
	in.add(args, false)
}
