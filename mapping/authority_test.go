package mapping

import "testing"

func TestAuthority(t *testing.T) {
	tests := []struct {
		in, host, port string
		plain          bool
	}{
		{"a.example", "a.example", "443", true},
		{"a.example:443", "a.example", "443", true},
		{"A.Example:8443", "a.example", "8443", true},
		{"under_score.example", "under_score.example", "443", true},
		{"b\u00fccher.example", "xn--bcher-kva.example", "443", true},
		{"xn--bcher-kva.example", "xn--bcher-kva.example", "443", true},
		{"192.0.2.1:80", "192.0.2.1", "80", true},
		{"[2001:db8::1]", "2001:db8::1", "443", true},
		{"[2001:DB8:0:0::1]:1", "2001:db8::1", "1", true},

		{"a.example.", "a.example", "443", false},
		{"b\u00fccher.example.", "xn--bcher-kva.example", "443", false},
		{"u@a.example", "a.example", "443", false},
		{"a.example:", "a.example", "443", false},
		{"a.example:0443", "a.example", "443", false},
		{"a.example:+80", "a.example", "80", false},
		{"a.example:0", "a.example", "443", false},
		{"a.example:65536", "a.example", "443", false},
		{"a.example/b", "a.example", "443", false},
		{"a.example\\b", "a.example", "443", false},
		{"a%2eexample", "a.example", "443", false},
		{"a\uff0eexample", "a.example", "443", false},
		{"xn--a.example", "xn--a.example", "443", false},
		{"2130706433", "127.0.0.1", "443", false},
		{"0x7f000001", "127.0.0.1", "443", false},
		{"0177.0.0.1", "127.0.0.1", "443", false},
		{"127.1", "127.0.0.1", "443", false},
		{"1.2.3.4.", "1.2.3.4", "443", false},
		{"1.2.3.256", "1.2.3.256", "443", false},
		{"[::ffff:127.0.0.1]", "127.0.0.1", "443", false},
		{"[fe80::1%25eth0]", "fe80::1", "443", false},
		{"[::1", "::1", "443", false},
		{"[::1]x", "::1", "443", false},
		{"[a.example]", "a.example", "443", false},
		{"::1", "::1", "443", false},
		{"-a.example", "-a.example", "443", false},
		{"a..example", "a..example", "443", false},
		{"", "", "443", false},
	}
	for _, tt := range tests {
		host, port, err := Authority("https", tt.in)
		if host != tt.host || port != tt.port || (err == nil) != tt.plain {
			t.Errorf("%q: %q %q %v", tt.in, host, port, err)
		}
	}
	if _, port, err := Authority("http", "a.example"); port != "80" || err != nil {
		t.Errorf("%q %v", port, err)
	}
	if _, _, err := Authority("ftp", "a.example"); err == nil {
		t.Error("a scheme without a port was accepted")
	}
}

// TestWildcardIsNoAddress says that a label pattern is about names.
func TestWildcardIsNoAddress(t *testing.T) {
	s := mustCompile(t, "rules:\n  - { match: { host: \"*.0.0.1\", path: /a }, tool: a }\n")
	if s.MapsHost("127.0.0.1", "443") {
		t.Error("an address was taken for a name")
	}
}
