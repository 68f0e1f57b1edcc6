package evidence

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Bounds of what Redact keeps of arguments. What is cut is replaced by something
// that says so, with a keyed hash of the whole.
const (
	maxArgText    = 1024 // bytes of one string
	maxArgDepth   = 16
	maxArgMembers = 256      // of one object or array
	maxArgNodes   = 2048     // values altogether
	maxArgBytes   = 32 << 10 // of all strings and keys together
	maxArgKey     = 256      // bytes of a member's name
)

// Names of members that Redact puts into args.
const (
	RedactedKey  = "redacted"       // {"redacted":"hmac:<16 hex>"}: a secret
	TruncatedKey = "truncated"      // {"truncated":"<prefix>","bytes":n,"hash":"hmac:..."}: too long
	OmittedKey   = "_omitted"       // members or elements that were left out
	hashPrefix   = "hmac:"          // the first 64 bits of HMAC-SHA-256
	hashDomain   = "actpass args\n" // keeps these hashes apart from other uses of the key
)

// Redact gives a copy of args that may be recorded. Values at the dotted paths in
// secret (arrays have no step of their own: "cards.number" is every card's), and
// at names that look secret at any depth, are replaced by {"redacted":
// "hmac:..."}, a hash keyed with key: equal values can be seen to be equal, and
// nobody without the key can try values out. Long strings, deep nesting and many
// members are cut, so that one call cannot fill the disk. args is not changed: the
// result is args itself where nothing is to be hidden or cut, else a copy.
func Redact(args map[string]any, secret []string, key []byte) map[string]any {
	if args == nil {
		return nil
	}
	r := redactor{key: key, nodes: maxArgNodes, bytes: maxArgBytes}
	if len(secret) > 0 {
		r.secret = make(map[string]bool, len(secret))
		for _, p := range secret {
			r.secret[p] = true
		}
	}
	if whole := r; whole.fine(args, "", 0) {
		return args
	}
	return r.object(args, "", 0)
}

type redactor struct {
	key    []byte
	secret map[string]bool
	nodes  int // left
	bytes  int // left
}

// fine says that object would change nothing, as for most calls. Near a bound it
// may say no for one that would stay as it is.
func (r *redactor) fine(m map[string]any, path string, depth int) bool {
	if len(m) > maxArgMembers {
		return false
	}
	for k, v := range m {
		if r.bytes -= len(k); len(k) > maxArgKey {
			return false
		}
		sub := k
		if path != "" && r.secret != nil {
			sub = path + "." + k
		}
		if r.secret[sub] || secretName(k) || (k == "number" && cardNumber(v)) || !r.fineValue(v, sub, depth+1) {
			return false
		}
	}
	return r.nodes > 0 && r.bytes > 0
}

func (r *redactor) fineValue(v any, path string, depth int) bool {
	if r.nodes--; r.nodes <= 0 || r.bytes <= 0 {
		return false
	}
	switch v := v.(type) {
	case nil, bool, int64, int, uint64, float64:
		r.bytes -= 8
		return true
	case json.Number:
		r.bytes -= len(v)
		return len(v) <= 64 && validNumber(string(v))
	case string:
		r.bytes -= len(v)
		return len(v) <= maxArgText && !secretText(v)
	case map[string]any:
		return depth < maxArgDepth && r.fine(v, path, depth)
	case []any:
		if depth >= maxArgDepth || len(v) > maxArgMembers {
			return false
		}
		for _, e := range v {
			if !r.fineValue(e, path, depth+1) {
				return false
			}
		}
		return true
	}
	return false
}

func (r *redactor) object(m map[string]any, path string, depth int) map[string]any {
	out := make(map[string]any, min(len(m), maxArgMembers))
	omitted := 0
	var room [16]string
	// In order, so that the same call is cut at the same place each time.
	for _, k := range sortedKeys(m, room[:0]) {
		if len(out) >= maxArgMembers || r.nodes <= 0 || r.bytes <= 0 {
			omitted++
			continue
		}
		v := m[k]
		name := k
		if len(name) > maxArgKey {
			name = cut(name, maxArgKey) + "..." + r.hash(k)
		}
		r.bytes -= len(name)
		sub := k
		if path != "" && r.secret != nil {
			sub = path + "." + k
		}
		if r.secret[sub] || secretName(k) || (k == "number" && cardNumber(v)) {
			out[name] = r.redacted(v)
			continue
		}
		out[name] = r.value(v, sub, depth+1)
	}
	if omitted > 0 {
		out[OmittedKey] = int64(omitted)
	}
	return out
}

func (r *redactor) value(v any, path string, depth int) any {
	r.nodes--
	switch v := v.(type) {
	case nil, bool, int64, int, uint64, float64:
		r.bytes -= 8
		return v
	case json.Number:
		if len(v) > 64 || !validNumber(string(v)) {
			return r.text(string(v))
		}
		r.bytes -= len(v)
		return v
	case string:
		return r.text(v)
	case map[string]any:
		if depth >= maxArgDepth {
			return r.tooMuch(v, int64(len(v)))
		}
		return r.object(v, path, depth)
	case []any:
		if depth >= maxArgDepth {
			return r.tooMuch(v, int64(len(v)))
		}
		out := make([]any, 0, min(len(v), maxArgMembers))
		for i, e := range v {
			if i >= maxArgMembers || r.nodes <= 0 || r.bytes <= 0 {
				out = append(out, map[string]any{OmittedKey: int64(len(v) - i)})
				break
			}
			out = append(out, r.value(e, path, depth+1))
		}
		return out
	default:
		// Nothing that mapping makes; a record is better than none.
		return r.text(fmt.Sprint(v))
	}
}

// text keeps a string, or the beginning of a long one.
func (r *redactor) text(s string) any {
	if secretText(s) {
		return r.redacted(s)
	}
	if len(s) <= maxArgText && len(s) <= max(r.bytes, 0) {
		r.bytes -= len(s)
		return s
	}
	prefix := cut(s, max(0, min(maxArgText/4, r.bytes)))
	r.bytes -= len(prefix) + 64
	return map[string]any{TruncatedKey: prefix, "bytes": int64(len(s)), "hash": r.hash(s)}
}

// tooMuch stands for an object or array below the deepest level.
func (r *redactor) tooMuch(v any, members int64) any {
	r.bytes -= 64
	return map[string]any{OmittedKey: members, "hash": r.hashValue(v)}
}

// redacted hides a value of any kind; "" and null are no secrets, and seeing that
// they are empty helps.
func (r *redactor) redacted(v any) any {
	r.nodes--
	r.bytes -= 48
	switch v := v.(type) {
	case nil:
		return nil
	case string:
		if v == "" {
			return v
		}
	}
	return map[string]any{RedactedKey: r.hashValue(v)}
}

// hashValue hashes a value so that equal ones hash alike whatever Go type carried
// them: "4242" and 4242 are the same secret.
func (r *redactor) hashValue(v any) string {
	switch v := v.(type) {
	case string:
		return r.hash(v)
	case int64:
		return r.hash(strconv.FormatInt(v, 10))
	case int:
		return r.hash(strconv.Itoa(v))
	case json.Number:
		return r.hash(string(v))
	case float64:
		if v == math.Trunc(v) && math.Abs(v) < 1<<53 {
			return r.hash(strconv.FormatInt(int64(v), 10))
		}
		return r.hash(strconv.FormatFloat(v, 'g', -1, 64))
	}
	var w writer
	w.b = make([]byte, 0, 256)
	if err := w.value(v, 0); err != nil {
		return r.hash(fmt.Sprintf("%T %v", v, err))
	}
	return r.hash(string(w.b))
}

func (r *redactor) hash(s string) string {
	m := hmac.New(sha256.New, r.key)
	m.Write([]byte(hashDomain))
	m.Write([]byte(s))
	return hashPrefix + hex.EncodeToString(m.Sum(nil)[:8])
}

// cut gives at most n bytes of s, whole runes.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// Words that make a member's name look secret. A name is compared in lower case
// without separators, so api_key, apiKey and API-Key are one.
var (
	secretWhole = map[string]bool{
		"auth": true, "authorization": true, "proxyauthorization": true, "bearer": true, "cookie": true, "setcookie": true, "pin": true, "otp": true, "totp": true,
		"cvc": true, "cvv": true, "cvv2": true, "cvccheck": false, "pan": true, "ssn": true, "iban": true, "pwd": true, "pass": true, "sessionid": true, "jwt": true,
		"cardnumber": true, "accountnumber": true, "routingnumber": true, "securitycode": true, "signature": true, "sig": true, "xamzsignature": true, "xamzsecuritytoken": true,
		"token": true, "tokens": true,
		// Counts and markers of paging that carry "token" in their names.
		"maxtokens": false, "maxcompletiontokens": false, "maxoutputtokens": false, "prompttokens": false, "completiontokens": false, "totaltokens": false,
		"inputtokens": false, "outputtokens": false, "maxnewtokens": false, "budgettokens": false, "tokentype": false, "nextpagetoken": false, "pagetoken": false,
		"nexttoken": false, "continuationtoken": false, "maxtokenstosample": false, "secretname": false, "secretid": false, "secretarn": false, "passwordresetrequired": false,
	}
	// secretParts each hold one of secretStems, which are looked for first.
	secretStems = []string{"pass", "key", "token", "secret", "cred", "card"}
	secretParts = []string{
		"password", "passwd", "passphrase", "secret", "apikey", "accesskey", "privatekey", "signingkey", "encryptionkey", "credential",
		"authtoken", "accesstoken", "refreshtoken", "idtoken", "sessiontoken", "securitytoken", "bearertoken", "csrftoken", "xsrftoken", "bottoken", "apitoken",
		"cardnumber", "creditcard", "cardcvc", "cardcvv",
	}
)

// secretName says whether a member's name is that of a secret. Bracketed names of
// forms that were not nested (card[number]) count as card.number.
func secretName(name string) bool {
	if len(name) > 128 {
		return false
	}
	var room [128]byte
	b := room[:0]
	for i := range len(name) {
		switch c := name[i]; {
		case c >= 'A' && c <= 'Z':
			b = append(b, c+'a'-'A')
		case c == '_' || c == '-' || c == '.' || c == ' ' || c == '[' || c == ']':
		default:
			b = append(b, c)
		}
	}
	s := string(b)
	if is, ok := secretWhole[s]; ok {
		return is
	}
	if !containsOne(s, secretStems) {
		return false
	}
	return containsOne(s, secretParts) || strings.HasSuffix(s, "token")
}

func containsOne(s string, parts []string) bool {
	for _, p := range parts {
		if strings.Contains(s, p) {
			return true
		}
	}
	return false
}

// secretText says whether a string is a credential by its own form, whatever its
// name. The forms are those that their issuers made to be recognised.
func secretText(s string) bool {
	for _, p := range secretForms {
		if len(s) > len(p)+8 && strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}

var secretForms = []string{
	"sk_live_", "sk_test_", "rk_live_", "rk_test_", "whsec_", "sk-ant-", "sk-proj-", "ghp_", "gho_", "ghs_", "ghu_", "github_pat_", "glpat-",
	"xoxb-", "xoxp-", "xoxa-", "xapp-", "AKIA", "ASIA", "Bearer ", "Basic ", "-----BEGIN ",
}

// cardNumber says whether a value called "number" is that of a payment card:
// 12 to 19 digits. An order's number is rarely so long.
func cardNumber(v any) bool {
	var s string
	switch v := v.(type) {
	case string:
		s = v
	case int64:
		s = strconv.FormatInt(v, 10)
	case json.Number:
		s = string(v)
	default:
		return false
	}
	digits := 0
	for i := range len(s) {
		switch c := s[i]; {
		case c >= '0' && c <= '9':
			digits++
		case c == ' ' || c == '-':
		default:
			return false
		}
	}
	return digits >= 12 && digits <= 19
}
