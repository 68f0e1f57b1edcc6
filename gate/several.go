package gate

import (
	"encoding/json"
	"fmt"

	"github.com/actpass/sidecar/evidence"
)

// A request that holds several calls (a batch, a GraphQL document) is one event, one
// question to people and one send. The decision is about one of them; what follows
// tells of all, because all are sent.

// maxTold is how much of the arguments is told, in bytes, of all calls together.
const maxTold = 32 << 10

// all are the calls as the arguments of the question that they put: tool, resource
// and arguments of each, in their order. Where there is too much of it, a call's
// arguments are left out, and it is told that they are.
func (c *call) all(redactKey []byte) map[string]any {
	most := maxTold / len(c.reading.Calls)
	list := make([]any, len(c.reading.Calls))
	for i := range c.reading.Calls {
		one := &c.reading.Calls[i]
		args := any(evidence.Redact(one.Args, one.Secret, redactKey))
		if b, err := json.Marshal(args); err != nil || len(b) > most {
			args = map[string]any{evidence.OmittedKey: int64(len(one.Args))}
		}
		list[i] = map[string]any{"tool": one.Tool, "resource": clip(one.Resource), "args": args}
	}
	return map[string]any{"calls": list}
}

// Several says that a is about a request that holds several calls, whose Args are
// all of them: what was said of it is no word on any one.
func (a *Approval) Several() bool {
	list, ok := a.Args["calls"].([]any)
	if !ok || len(a.Args) != 1 || len(list) < 2 {
		return false
	}
	for _, one := range list {
		m, ok := one.(map[string]any)
		if _, tool := m["tool"].(string); !ok || !tool || m["args"] == nil {
			return false
		}
	}
	return true
}

// each is a line for each call, for the record; none of a request that holds one.
func (c *call) each(redactKey []byte) []string {
	n := len(c.reading.Calls)
	if n < 2 {
		return nil
	}
	lines := make([]string, n)
	for i := range c.reading.Calls {
		one := &c.reading.Calls[i]
		args, err := json.Marshal(evidence.Redact(one.Args, one.Secret, redactKey))
		if err != nil {
			args = []byte("(arguments that cannot be shown)")
		}
		lines[i] = fmt.Sprintf("call %d of %d: %s on %s %s", i+1, n, one.Tool, clip(one.Resource), clipTo(string(args), max(64, maxTold/n)))
	}
	return lines
}
