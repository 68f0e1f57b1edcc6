package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/actpass/sidecar/mapping/corpus"
)

// generator writes requests that are mostly plain and in one place odd. Most odd
// ones are refused; the others are what the test is about.
type generator struct {
	*rand.Rand
	cases []corpus.Case
}

// generated gives the same cases on every run. ACTPASS_E2E_SEED gives others,
// and ACTPASS_E2E_MORE that many times as many.
func generated(t testing.TB, h2 bool) []corpus.Case {
	t.Helper()
	seed, more := uint64(1), 1
	if s := os.Getenv("ACTPASS_E2E_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		must(t, err)
		seed = n
	}
	if s := os.Getenv("ACTPASS_E2E_MORE"); s != "" {
		n, err := strconv.Atoi(s)
		must(t, err)
		more = n
	}
	if h2 {
		seed += 1 << 32
	}
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 2))}
	for _, s := range oddSegments {
		g.get("path.example.test", "/v1/"+s+"/x")
	}
	for _, name := range oddNames {
		g.form("form.example.test", name+"=1&amount=500")
		g.get("query.example.test", "/v1/x?amount=500&"+name+"=1")
		g.multipart([]string{name, "amount"}, []string{"1", "500"})
	}
	for _, v := range oddValues {
		g.form("form.example.test", "amount=500&note="+v)
		g.get("query.example.test", "/v1/x?note="+v+"&amount=500")
	}
	for _, n := range oddNumbers {
		g.json("json.example.test", `{"amount":`+n+`}`)
		g.json("typed.example.test", `{"amount":`+n+`}`)
	}
	for _, s := range oddStrings {
		g.json("json.example.test", `{"note":"`+s+`","amount":1}`)
		g.json("typed.example.test", `{"`+s+`":"x","amount":1}`)
	}
	for _, n := range oddMembers {
		g.json("typed.example.test", `{`+n+`:"x"}`)
	}
	for _, n := range []int{998, 999, 1000} {
		g.form("form.example.test", strings.Repeat("expand[]=x&", n)+"amount=1")
		g.get("query.example.test", "/v1/x?"+strings.Repeat("expand[]=x&", n)+"amount=1")
	}
	for range 60 * more {
		g.get("path.example.test", "/v1/"+g.some(oddSegments)+g.some(oddSegments)+"/"+g.some(plainSegments))
		g.get("query.example.test", "/v1/x?"+g.fields())
		g.form("form.example.test", g.fields())
		g.form("form.example.test", g.fields())
		g.json("json.example.test", g.value(3))
		g.json("typed.example.test", g.value(2))
		g.multipart([]string{g.some(plainNames), g.some(oddNames)}, []string{g.some(plainValues), g.some(oddValues)})
	}
	return g.cases
}

func (g *generator) some(of []string) string { return of[g.IntN(len(of))] }

func (g *generator) add(host, raw string) {
	g.cases = append(g.cases, corpus.Case{
		Name: fmt.Sprintf("generated/%d", len(g.cases)), Class: "generated", Carrier: corpus.Both, Authority: host, Scheme: "https",
		Doors: []string{corpus.Forward, corpus.Connect}, Raw: []byte(raw),
	})
}

func (g *generator) get(host, target string) {
	g.add(host, "GET "+target+" HTTP/1.1\r\nHost: "+host+"\r\n\r\n")
}

func (g *generator) post(host, contentType, body string) {
	g.add(host, fmt.Sprintf("POST /v1/x HTTP/1.1\r\nHost: %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", host, contentType, len(body), body))
}

func (g *generator) form(host, body string) {
	g.post(host, "application/x-www-form-urlencoded", body)
}

func (g *generator) json(host, body string) { g.post(host, "application/json", body) }

func (g *generator) multipart(names, values []string) {
	var b strings.Builder
	for i, name := range names {
		file := ""
		if g.IntN(5) == 0 {
			file = `; filename="` + g.some([]string{"a.txt", "a b.txt", "é.txt", "..", "a;b", "a/b.txt", ""}) + `"`
		}
		fmt.Fprintf(&b, "--b0undary\r\nContent-Disposition: form-data; name=\"%s\"%s\r\n\r\n%s\r\n", name, file, values[i])
	}
	b.WriteString("--b0undary--\r\n")
	g.post("multipart.example.test", g.some([]string{"multipart/form-data; boundary=b0undary", `multipart/form-data; boundary="b0undary"`, "Multipart/Form-Data; Boundary=b0undary"}), b.String())
}

// fields is a form of some fields, one of them odd.
func (g *generator) fields() string {
	odd := g.IntN(4)
	var parts []string
	for i := range 1 + g.IntN(4) {
		name, value := g.some(plainNames), g.some(plainValues)
		if i == odd {
			if g.IntN(2) == 0 {
				name = g.some(oddNames)
			} else {
				value = g.some(oddValues)
			}
		}
		parts = append(parts, name+"="+value)
	}
	return strings.Join(parts, g.some([]string{"&", "&", "&", "&", "&&"}))
}

// value is a JSON text, at most deep.
func (g *generator) value(deep int) string {
	space := func() string { return g.some([]string{"", "", "", " ", "\n", "\t", "\r\n"}) }
	if deep == 0 || g.IntN(6) == 0 && deep < 3 {
		switch g.IntN(5) {
		case 0:
			return g.some([]string{"true", "false", "null"})
		case 1:
			return g.some(oddNumbers)
		case 2:
			return strconv.Itoa(g.IntN(100000))
		}
		return `"` + g.some(oddStrings) + `"`
	}
	var parts []string
	if g.IntN(4) == 0 {
		for range g.IntN(4) {
			parts = append(parts, space()+g.value(deep-1))
		}
		return "[" + strings.Join(parts, ",") + space() + "]"
	}
	for range g.IntN(4) {
		name := `"` + g.some(plainNames[:5]) + `"`
		if g.IntN(4) == 0 {
			name = g.some(oddMembers)
		}
		parts = append(parts, space()+name+space()+":"+space()+g.value(deep-1))
	}
	return "{" + strings.Join(parts, ",") + space() + "}"
}

var plainSegments = []string{"charges", "ch_123", "A", "x.y", "~u", "a-b", "v2"}

var oddSegments = []string{
	"a", "", ".", "..", "...", "..a", ".a", "a.", "%41", "%2e", "%2E%2e", ".%2e", "%2F", "%2f..", "%5C", "\\", ";x", "a;b=c", "..;", "%3B", "%", "%z", "%2",
	"%00", "a%0a", "%25", "%2541", "%252e%252e", "%C3%A9", "%c3%a9", "é", "%C0%AF", "%E0%80%AF", "%EF%BC%8F", "%E2%88%95", "%E2%80%AE", "%u002e", "~", "%7E", "+", "%2B",
	"%20", "%09", "%7F", "%80", "@", "a@b", ":", "a:b", "$", "&", "'", "(", ")", "*", "!", ",", "=", "|", "^", "[", "]", "%5B", "%5D", "{", "%7B", "\"", "%22", "<",
	"%3C", "`", "%60", "%3F", "%23", "%26", "%3D", "%40", "%3A", "%24", "%2C", "%7C", "%5E", "%EF%BB%BF", "%CC%81", "e%CC%81", "%F0%9F%98%80",
	"index.php", "a.php/b", "con", "%E3%80%82", "a%20", "%20a", "aux.", "a::$DATA", "-", "_", "0",
}

var plainNames = []string{"amount", "currency", "note", "charge", "reason", "metadata[order]", "expand[]", "items[0][price]", "items[0][quantity]"}

var oddNames = []string{
	"Amount", "%61mount", "amoun%74", "a[b]", "a[]", "a[0]", "a[1]", "a[01]", "a%5Bb%5D", "a%5bb%5d", "a[b%5D", "a.b", "a%2Eb", "a+b", "a%20b", "+a", "a+", "a%20",
	"a[b][c]", "a[b][]", "a[][b]", "a[][]", "a[b][c][d][e][f][g][h]", "metadata[7]", "metadata[30]", "metadata[x+y]", "metadata[x.y]", "metadata[+x]", "metadata[Order]",
	"caf%C3%A9", "é", "%E9", "__proto__[x]", "__proto__", "a[__proto__][x]", "constructor", "constructor[prototype][x]", "toString", "length", "hasOwnProperty", "0", "-1", "7",
	"a[-1]", "a-b", "a_b", "a:b", "$a", "a$", "@a", "utf8", "_charset_", "isindex", "a%00b", "a%0Ab", "a%09b", "[a]", "a]b", "a]", "a[b", "a[b]c", "a[b[c]]", "a[[b]]", "", "%20", "cu%C5%BFtomer", "%E2%84%AAind",
	"a%26b", "a%3Db", "a%5B", "a%5D", "a%25", "a%2B", "%EF%BB%BFa", "amount%EF%BB%BF", "e%CC%81", "a'b", "a(b)", "a*", "a!", "a,b", "a/b", "a?b", "a~", "a^b", "a|b", "a{b}", "a%7Bb%7D", "a`b", "GLOBALS", "_SERVER[x]", "PHPSESSID",
}

var plainValues = []string{"1", "4900", "usd", "ch_123", "sent+twice", "caf%C3%A9"}

var oddValues = []string{
	"", "+1", "1+1", "%2B1", "a%20b", "%26", "%3D", "a=b", "=", "==", "%", "%z", "%2", "é", "%E9", "%00", "%0A", "%0D%0A", "%09", "%7F", "true", "[]", "a[b]", "%5B%5D",
	"a;b", "%3B", "null", "\"", "%22", "<x>", "&amp", "&amp;x", "&", "&&", "%EF%BB%BF", "%ED%A0%80", "%F4%90%80%80", "%C0%80", "'", "%u0041", "%25", "%2541", "%252541", "a#b", "%23", "a?b", "a/b",
	"\\", "%5C", "`", "{}", "$(x)", "|", "^", "~", "*", "!", ",", ":", "@", "1e6", "01", "0x10", "1_000", "%E2%80%A8", "%C2%A0", "%E3%80%80", "+", "++", "%20", " ", "a b", "-0", "%F0%9F%98%80",
}

var oddNumbers = []string{
	"0", "-0", "0.0", "-0.0", "1", "1.0", "1.50", "1e2", "1E+2", "1e-2", "100e-2", "0.1", "0.30000000000000004", "12345678901234567890", "9007199254740991", "9007199254740992", "9007199254740993", "-9007199254740993", "9223372036854775807",
	"9223372036854775808", "-9223372036854775808", "-9223372036854775809", "18446744073709551615", "18446744073709551616", "1e400", "1e-400", "-1e400", "0.1000000000000000055", "123456789.123456789", "1e15", "1e16", "1e21", "1e22", "1e23", "4.35", "5e-324",
	"2.2250738585072011e-308", "1.7976931348623157e308", "1.7976931348623159e308", "01", "+1", ".5", "1.", "0x10", "NaN", "Infinity", "-Infinity", "1_000", "1e", "--1", "1 2", "9007199254740993.0", "9007199254740993e0", "0e5", "1e0000000002", "1e-7", "123e-20",
}

var oddStrings = []string{
	"", "a", `\u0061`, `\/`, `\b\f\n\r\t`, `\u0000`, `a\u0000b`, `\ud83d\ude00`, `\ud800`, `\ude00\ud83d`, "é", `\u00e9`, `\u00E9`, `\u2028`, "\u2028", `\u007f`, "\x7f", `\x41`, "\t", "\n", `\ufeff`, `\u212a`, "\u212a", "😀", `e\u0301`, "\xff", "\xed\xa0\x80",
	`\U0041`, `\u00`, `\'`, `\a`, `\\`, `\"`, `\uFFFE`, "\ufffd", `\ufffd`, "amount", `\u0061mount`, "kind", "'", "<", `\u003c`, "&", "$ref", "-", "1", "true",
}

var oddMembers = []string{
	`"amount"`, `"\u0061mount"`, `"Amount"`, `"AMOUNT"`, `"a.b"`, `""`, `"__proto__"`, `"constructor"`, `"a\u0000b"`, `"\u0000a"`, `"é"`, `"e\u0301"`, "\"cu\u017ftomer\"", `"cu\u017ftomer"`, `"\u212aind"`, "\"\u212aind\"", `"customer"`, `"customer "`, `" customer"`, `"customer\u0000"`,
	`"kind"`, `"KIND"`, `'kind'`, `kind`, `"ki\nd"`, `"\ufeffkind"`, `"k\u0131nd"`, "\"k\u0131nd\"", `"k\u0130nd"`, `"0"`, `"-"`, `"$ref"`, `"a b"`, `"toString"`,
}
