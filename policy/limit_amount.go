package policy

import (
	"fmt"
	"strconv"
	"strings"
)

// minorDigits are the currencies of ISO 4217 whose minor unit is not a
// hundredth: how many decimal digits it has.
var minorDigits = map[string]int{
	"BIF": 0, "CLP": 0, "DJF": 0, "GNF": 0, "ISK": 0, "JPY": 0, "KMF": 0, "KRW": 0, "PYG": 0, "RWF": 0, "UGX": 0, "UYI": 0,
	"VND": 0, "VUV": 0, "XAF": 0, "XOF": 0, "XPF": 0,
	"BHD": 3, "IQD": 3, "JOD": 3, "KWD": 3, "LYD": 3, "OMR": 3, "TND": 3,
	"CLF": 4, "UYW": 4,
}

// hundredths are those with two digits. Others, and what is no currency, are
// shown as the plain number that they are counted in.
const hundredths = " AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE CHF CHW " +
	"CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD " +
	"KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD " +
	"PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD " +
	"TZS UAH USD USN UYU UZS VED VES WST XCD XCG YER ZAR ZMW ZWG "

// digits is how many decimal digits the minor unit of a currency has; known is
// false for what is no currency of ISO 4217.
func digits(currency string) (n int, known bool) {
	if n, odd := minorDigits[currency]; odd {
		return n, true
	}
	if len(currency) == 3 && !strings.Contains(currency, " ") && strings.Contains(hundredths, " "+currency+" ") {
		return 2, true
	}
	return 0, false
}

// Currency is the currency that a sum under this key is in, as ISO 4217 writes
// it (USD); "" when the limit counts calls, or its key has none.
func (l *Limit) Currency(key string) string {
	if l.Sum == "" {
		return ""
	}
	for _, kv := range l.KeyValues(key) {
		if namesCurrency(kv.Name) {
			if code := strings.ToUpper(kv.Value); len(code) == 3 {
				if _, known := digits(code); known {
					return code
				}
			}
		}
	}
	return ""
}

// Unit is what the limit counts under a key: a currency, in whose minor unit the
// numbers are, "calls", or "" for a sum of anything else.
func (l *Limit) Unit(key string) string {
	if l.Sum == "" {
		return "calls"
	}
	return l.Currency(key)
}

// Amount writes n of the limit's unit under a key: "62.00 USD", "3 calls",
// "98000". Sums in a currency are taken to be in its minor unit (cents), as
// payment APIs have them.
func (l *Limit) Amount(key string, n int64) string {
	number, unit := l.amount(key, n)
	return number + unit
}

// Used says how much of the limit is used: "62.00 of 100.00 USD used", "3 of 5
// calls used".
func (l *Limit) Used(key string, used int64) string {
	have, _ := l.amount(key, used)
	most, unit := l.amount(key, l.Max)
	return fmt.Sprintf("%s of %s%s used", have, most, unit)
}

func (l *Limit) amount(key string, n int64) (number, unit string) {
	if l.Sum == "" {
		if n == 1 {
			return "1", " call"
		}
		return strconv.FormatInt(n, 10), " calls"
	}
	code := l.Currency(key)
	if code == "" {
		return strconv.FormatInt(n, 10), ""
	}
	d, _ := digits(code)
	return withPoint(n, d), " " + code
}

// withPoint writes n with its last d digits behind a point.
func withPoint(n int64, d int) string {
	s := strconv.FormatInt(n, 10)
	if d == 0 {
		return s
	}
	sign := ""
	if s[0] == '-' {
		sign, s = "-", s[1:]
	}
	if len(s) <= d {
		s = strings.Repeat("0", d-len(s)+1) + s
	}
	return sign + s[:len(s)-d] + "." + s[len(s)-d:]
}
