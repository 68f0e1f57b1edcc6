package mapping

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// readJSONRPC reads JSON-RPC 2.0 messages: requests, notifications, and the
// responses that a client sends back to a server's own request. A batch gives a
// call for each message.
func readJSONRPC(in *input) {
	if in.m.Method == "GET" || in.m.Method == "DELETE" {
		// A stream is opened or a session ended (MCP, streamable HTTP): no message.
		if len(in.body) > 0 {
			in.flag(ClassSource, "a %s request has a body", in.m.Method)
		}
		in.message(map[string]any{}, RiskLow)
		return
	}
	v, ok := in.jsonBody()
	if !ok {
		return
	}
	switch x := v.(type) {
	case map[string]any:
		in.mirrored(x)
		in.rpc(x)
	case []any:
		in.batch(x, in.rpc)
	default:
		in.flag(ClassBody, "the body is no JSON-RPC message")
	}
}

// mirrored holds the headers in which MCP repeats the method and what it is about,
// for those who route by headers, to the message itself.
func (in *input) mirrored(msg map[string]any) {
	if in.rule.mcp == "" {
		return
	}
	params, _ := msg["params"].(map[string]any)
	about := params["name"]
	if about == nil {
		about = params["uri"]
	}
	for _, h := range []struct {
		name string
		says any
	}{{"Mcp-Method", msg["method"]}, {"Mcp-Name", about}} {
		for _, v := range in.m.req.Header[h.name] {
			if text, _ := h.says.(string); mirroredValue(v) != text {
				in.flag(ClassSource, "the header %s is not what the message says", h.name)
				break
			}
		}
	}
}

// mirroredValue is what such a header says: text that is none of a header stands in
// it as =?base64?...?=.
func mirroredValue(v string) string {
	if inner, ok := strings.CutPrefix(v, "=?base64?"); ok {
		if inner, ok = strings.CutSuffix(inner, "?="); ok {
			if b, err := base64.StdEncoding.DecodeString(inner); err == nil {
				return string(b)
			}
		}
	}
	return v
}

// batch calls f for each message of a batch.
func (in *input) batch(list []any, f func(map[string]any)) {
	if len(list) == 0 {
		in.flag(ClassBatch, "the batch is empty")
		return
	}
	if len(list) > maxCalls {
		in.amb = append(in.amb, tooLarge(ClassBatch, "the batch has more than %d messages", maxCalls))
		list = list[:maxCalls]
	}
	ids := make(map[string]bool, len(list))
	for _, e := range list {
		msg, ok := e.(map[string]any)
		if !ok {
			if _, nested := e.([]any); nested {
				in.flag(ClassBatch, "there is a batch inside the batch")
			} else {
				in.flag(ClassBatch, "the batch holds something that is no message")
			}
			continue
		}
		if id, has := msg["id"]; has && msg["method"] != nil {
			text := string(rawID(id))
			if ids[text] {
				in.flag(ClassBatch, "two messages of the batch have the id %s", show(text))
			}
			ids[text] = true
		}
		f(msg)
	}
}

var rpcMembers = []string{"jsonrpc", "id", "method", "params", "result", "error"}

func (in *input) rpc(msg map[string]any) {
	if msg["jsonrpc"] != "2.0" {
		in.flag(ClassBody, "the message does not say \"jsonrpc\": \"2.0\"")
	}
	for k := range msg {
		if low := looseName(k); low != k && slices.Contains(rpcMembers, low) {
			in.flag(ClassDuplicate, "the member %s is spelt %s", low, show(k))
		}
	}
	id, hasID := msg["id"]
	switch id.(type) {
	case string, int64, nil:
	default:
		in.flag(ClassBody, "the id of the message is neither a text nor an integer")
	}
	raw := []byte(nil)
	if hasID {
		raw = rawID(id)
	}
	method, isRequest := msg["method"].(string)
	_, result := msg["result"]
	_, failed := msg["error"]
	before := len(in.calls)
	switch {
	case isRequest && (result || failed):
		in.flag(ClassBody, "the message is a request and a response at once")
		in.request(method, msg["params"])
	case isRequest:
		in.request(method, msg["params"])
	case result != failed && msg["method"] == nil:
		in.message(map[string]any{"rpc_response": true}, RiskLow)
	default:
		in.flag(ClassBody, "the message is neither a request nor a response")
		in.message(map[string]any{}, in.rule.Risk)
	}
	for i := before; i < len(in.calls); i++ {
		in.calls[i].RPCID = raw
	}
}

func rawID(id any) []byte {
	switch x := id.(type) {
	case string:
		if b, err := jsontext.AppendQuote(nil, x); err == nil {
			return b
		}
	case int64:
		return strconv.AppendInt(nil, x, 10)
	}
	return []byte("null")
}

func (in *input) request(method string, params any) {
	args := map[string]any{}
	switch p := params.(type) {
	case map[string]any:
		args = p
	case []any:
		args["params"] = p
	case nil:
	default:
		in.flag(ClassBody, "the params of the message are neither an object nor a list")
	}
	if in.rule.mcp == "" {
		if _, clash := args["rpc_method"]; clash {
			in.flag(ClassDuplicate, "the params have a member rpc_method")
		}
		args["rpc_method"] = method
		in.rule = in.m.Rule.caseOf(method)
		in.add(args, false)
		in.rule = in.m.Rule
		return
	}
	if method == "tools/call" {
		in.toolCall(args)
		return
	}
	if strings.EqualFold(strings.TrimSpace(method), "tools/call") {
		in.flag(ClassMethod, "the JSON-RPC method %s is tools/call but for its spelling", show(method))
		in.toolCall(args)
		return
	}
	args["rpc_method"] = method
	in.message(args, mcpRisk(method, in.rule.Risk))
}

// message adds an MCP message that calls no tool.
func (in *input) message(args map[string]any, risk string) {
	spec := in.rule.spec
	if in.rule.mcp != "" {
		spec = nil // declared arguments are those of tool calls
	}
	c := in.addTyped(args, false, spec)
	if in.rule.mcp != "" {
		c.Risk = risk
	}
}

// mcpRisk is the tier of a method of the Model Context Protocol.
func mcpRisk(method, other string) string {
	switch method {
	case "initialize", "ping", "tools/list", "resources/list", "resources/templates/list", "prompts/list", "logging/setLevel", "completion/complete":
		return RiskLow
	case "resources/read", "resources/subscribe", "resources/unsubscribe", "prompts/get":
		return RiskMedium
	}
	if strings.HasPrefix(method, "notifications/") {
		return RiskLow
	}
	return other
}

// toolCall adds the call of an MCP tool, under the tool's own name.
func (in *input) toolCall(params map[string]any) {
	name, _ := params["name"].(string)
	args, isObject := params["arguments"].(map[string]any)
	switch {
	case name == "":
		in.flag(ClassBody, "the tools/call names no tool")
	case params["arguments"] == nil:
		args = map[string]any{}
	case !isObject:
		in.flag(ClassBody, "the arguments of the tools/call are no object")
		args = map[string]any{}
	}
	for k := range params {
		if low := looseName(k); low != k && (low == "name" || low == "arguments") {
			in.flag(ClassDuplicate, "the member %s is spelt %s", low, show(k))
		}
	}
	c := in.add(args, false)
	var b strings.Builder
	escapeTool(&b, name)
	c.Tool = "mcp." + in.rule.mcp + "." + b.String()
	if len(in.rule.resource) == 0 {
		c.Resource = fmt.Sprintf("mcp:%s:%s", in.rule.mcp, b.String())
	}
}

// escapeTool writes a tool's name as its server spells it, percent-encoding what
// is not ordinary in a name, and what a policy's globs could not tell apart.
func escapeTool(b *strings.Builder, name string) {
	if len(name) > 256 {
		name = name[:256]
	}
	for i := 0; i < len(name); i++ {
		if name[i] == '/' || name[i] == ':' {
			b.WriteByte(name[i])
			continue
		}
		if name[i] == '-' {
			b.WriteByte(name[i])
			continue
		}
		escapeValue(b, name[i:i+1])
	}
}
