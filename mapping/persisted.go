package mapping

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/parser"
)

// A persisted query is a hash in the place of a document that the server knows
// (Apollo's automatic persisted queries: extensions.persistedQuery.sha256Hash, the
// SHA-256 of the text). What a hash does cannot be seen in it, so a rule lists the
// texts that may be called so; the hash is made of the text at load, and a listed
// one is judged as the text would be.

// persisted compiles the documents that a rule lists.
func (c *compiler) persisted(r *Rule, d *ruleDecl, kind string) {
	for _, text := range d.Persisted {
		if kind != "graphql" {
			c.faults.Addf(text.Pos, "`persisted` belongs to `args: graphql`")
			return
		}
		if _, err := parser.ParseQueryWithTokenLimit(&ast.Source{Input: text.V}, maxTokens); err != nil || text.V == "" {
			c.faults.Addf(text.Pos, "`persisted`: the document does not parse within %d tokens", maxTokens)
			continue
		}
		if r.persisted == nil {
			r.persisted = make(map[string]string, len(d.Persisted))
		}
		hash := documentHash(text.V)
		if _, twice := r.persisted[hash]; twice {
			c.faults.Addf(text.Pos, "`persisted`: the document stands in the list before")
		}
		r.persisted[hash] = text.V
	}
}

func documentHash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// documentNames are members by which servers take a stored document in place of
// the text, in the dialects of Relay, Yoga and the GraphQL-over-HTTP draft.
var documentNames = []string{"documentId", "document_id", "docId", "doc_id", "queryId", "query_id", "hash", "id"}

// document gives the text that a request runs: its own, or a listed one. A hash
// beside a text must be the text's, since servers differ on which of them counts.
func (in *input) document(msg map[string]any) (string, error) {
	text, isText := msg["query"].(string)
	if msg["query"] != nil && !isText {
		return "", fmt.Errorf("its query is no text")
	}
	for _, name := range documentNames {
		if msg[name] != nil {
			return text, fmt.Errorf("its member %s names a document that the server alone knows", name)
		}
	}
	hash, err := persistedHash(msg["extensions"])
	switch {
	case err != nil:
		return text, err
	case hash == "" && text == "":
		return "", fmt.Errorf("it holds no query text")
	case hash == "":
		return text, nil
	case text == "":
		listed, ok := in.m.Rule.persisted[hash]
		if !ok {
			return "", fmt.Errorf("it holds no query text, and the persisted query %s is not one that the rule lists", show(hash))
		}
		return listed, nil
	case hash != documentHash(text):
		return text, fmt.Errorf("its persisted query hash is not that of its query text")
	}
	return text, nil
}

// persistedHash reads extensions.persistedQuery.sha256Hash, "" when there is none.
func persistedHash(extensions any) (string, error) {
	members, isObject := extensions.(map[string]any)
	if extensions != nil && !isObject {
		return "", fmt.Errorf("its extensions are no object")
	}
	for k := range members {
		if k != "persistedQuery" && looseName(k) == "persistedquery" {
			return "", fmt.Errorf("its extension persistedQuery is spelt %s", show(k))
		}
	}
	if members["persistedQuery"] == nil {
		return "", nil
	}
	q, _ := members["persistedQuery"].(map[string]any)
	hash, _ := q["sha256Hash"].(string)
	if len(hash) != 2*sha256.Size || strings.Trim(hash, "0123456789abcdef") != "" {
		return "", fmt.Errorf("its persisted query has no SHA-256 hash in lower-case hex")
	}
	return hash, nil
}
