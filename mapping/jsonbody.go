package mapping

func readJSON(in *input) {
	v, ok := in.jsonBody()
	if !ok {
		return
	}
	args := map[string]any{}
	switch x := v.(type) {
	case map[string]any:
		args = x
	case []any:
		args["items"] = x
	case nothing:
	default:
		in.flag(ClassBody, "the JSON text is neither an object nor a list")
	}
	for name := range args {
		if in.m.Method == "POST" && methodField(name) {
			in.flag(ClassMethod, "the JSON text asks for another method with _method")
		}
	}
	if len(in.m.query) > 0 && in.rule.spec != nil {
		// Also one that the body does not have: many servers take the query's then.
		declared := make(map[string]any, len(in.rule.spec.children))
		for k := range in.rule.spec.children {
			declared[k] = nil
		}
		in.clash(declared)
	}
	in.facts = in.parsed
	in.add(args, false)
}

// nothing is a body that is not there.
type nothing struct{}

// jsonBody reads the body as one JSON text. ok is false when there is nothing to
// go on with; the reason has been reported.
func (in *input) jsonBody() (v any, ok bool) {
	body, ok := in.decoded()
	if !ok {
		return nil, false
	}
	in.body = body
	// A wrong type is reported, and the body read all the same, for the record.
	_, typed := in.contentType(isJSON, "application/json")
	if len(body) == 0 {
		return nothing{}, true
	}
	v, err := parseJSON(body, in)
	if err != nil {
		if typed {
			in.amb = append(in.amb, *err)
		}
		return nil, false
	}
	return v, true
}
