package mapping

import (
	"encoding/json"
	"math"
	"math/big"
	"strconv"
	"strings"
	"time"
)

// One value as a declared type, and the numbers that are held exactly.

// typeValue gives v as a type, or says what it should have been.
func typeValue(v any, typ string, text bool) (typed any, want string) {
	s, isText := v.(string)
	num, isNumber := v.(rawNumber)
	if n, ok := v.(json.Number); ok {
		num, isNumber = rawNumber(n), true
	}
	if isText && text {
		num, isNumber = rawNumber(s), true
	}
	switch typ {
	case "string":
		if isText {
			return v, ""
		}
		return nil, "a text"
	case "integer":
		if _, ok := v.(int64); ok {
			return v, "" // boxed as it is
		}
		if isNumber {
			if n, ok := strictInt(string(num)); ok {
				return n, ""
			}
		}
		return nil, "an integer"
	case "number":
		switch n := v.(type) {
		case int64:
			return v, ""
		case float64:
			if !math.IsNaN(n) && !math.IsInf(n, 0) {
				return v, ""
			}
		}
		if isNumber {
			if n, ok := num.value(); ok {
				return n, ""
			}
		}
		return nil, "a finite number"
	case "boolean":
		if b, ok := v.(bool); ok {
			return b, ""
		}
		if isText && text && (s == "true" || s == "false") {
			return s == "true", ""
		}
		return nil, "true or false"
	case "currency":
		if isText && currencyCode(s) {
			return v, ""
		}
		return nil, "a currency of three lower-case letters"
	case "timestamp":
		if n, ok := v.(int64); ok {
			return n, ""
		}
		if isText {
			if _, err := time.Parse(time.RFC3339Nano, s); err == nil {
				return v, ""
			}
		}
		if isNumber {
			if n, ok := strictInt(string(num)); ok {
				return n, ""
			}
		}
		return nil, "a time in Unix seconds or RFC 3339"
	case "array":
		switch l := v.(type) {
		case []any:
			return l, ""
		case indexedList:
			return []any(l), ""
		}
		return nil, "a list"
	case "object":
		if m, ok := v.(map[string]any); ok {
			return m, ""
		}
		// Brackets with the keys 0..n-1 looked like a list.
		if l, ok := v.(indexedList); ok {
			m := make(map[string]any, len(l))
			for i, e := range l {
				m[strconv.Itoa(i)] = e
			}
			return m, ""
		}
		return nil, "an object"
	}
	return nil, "of a known type"
}

// currencyCode is the form of an ISO 4217 code, in lower case.
func currencyCode(s string) bool {
	if len(s) != 3 {
		return false
	}
	for i := range len(s) {
		if s[i] < 'a' || s[i] > 'z' {
			return false
		}
	}
	return true
}

// strictInt reads 0|-?[1-9][0-9]* within int64.
func strictInt(s string) (int64, bool) {
	digits := strings.TrimPrefix(s, "-")
	if digits == "" || len(digits) > 19 || digits[0] == '0' && len(s) > 1 {
		return 0, false
	}
	for i := 0; i < len(digits); i++ {
		if digits[i] < '0' || digits[i] > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

// rawNumber is a JSON number that is no int64, as written.
type rawNumber string

// value gives int64 or float64. It is refused where a float64 would be another
// number: an integer beyond 2^53 that it cannot hold, more than 17 significant
// digits, or infinity.
func (n rawNumber) value() (any, bool) {
	s := string(n)
	if i, ok := strictInt(s); ok {
		return i, true
	}
	if len(s) > 400 || !jsonNumber(s) {
		return nil, false
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return nil, false
	}
	mantissa, _, _ := strings.Cut(strings.ToLower(s), "e")
	// Up to 2^63 there are readers that take an integer for what it is, however it
	// is written (9007199254740993.0); beyond, all that write a fraction or an
	// exponent mean the double.
	if size := math.Abs(f); !strings.ContainsAny(s, ".eE") || size >= 1<<53 && size < 1<<63 {
		exact, ok := new(big.Float).SetPrec(2048).SetString(s)
		if !ok || new(big.Float).SetFloat64(f).Cmp(exact) != 0 {
			return nil, false
		}
		return f, true
	}
	digits := strings.Trim(strings.Replace(strings.TrimPrefix(mantissa, "-"), ".", "", 1), "0")
	if len(digits) > 17 || f == 0 && digits != "" {
		return nil, false
	}
	return f, true
}

// jsonNumber is the grammar of RFC 8259 section 6.
func jsonNumber(s string) bool {
	s = strings.TrimPrefix(s, "-")
	digits := func() bool {
		n := 0
		for n < len(s) && '0' <= s[n] && s[n] <= '9' {
			n++
		}
		zero := n > 1 && s[0] == '0'
		s = s[n:]
		return n > 0 && !zero
	}
	if !digits() {
		return false
	}
	if strings.HasPrefix(s, ".") {
		s = "1" + s[1:]
		if len(s) == 1 || !digits() {
			return false
		}
	}
	if s != "" && (s[0] == 'e' || s[0] == 'E') {
		s = strings.TrimPrefix(s[1:], "-")
		s = strings.TrimPrefix(s, "+")
		s = "1" + s
		if len(s) == 1 || !digits() {
			return false
		}
	}
	return s == ""
}
