package passport

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var (
	now     = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	private = ed25519.NewKeyFromSeed([]byte(strings.Repeat("k", 32)))
	other   = ed25519.NewKeyFromSeed([]byte(strings.Repeat("o", 32)))
	key     = Key{ID: "k1", Private: private}
	want    = Expect{Issuer: "actpass", Audience: "actpass", Now: now}
)

func keys(kid string) (ed25519.PublicKey, bool) {
	return private.Public().(ed25519.PublicKey), kid == "k1"
}

func claims() *Claims {
	return &Claims{
		Issuer: "actpass", Audience: "actpass", IssuedAt: now, ExpiresAt: now.Add(5 * time.Minute), ID: "ap_1",
		TenantID: "acme", AgentID: "support_agent", UserID: "u", Goal: "g",
		AllowedTools: []string{"stripe.refund.*"}, AllowedResources: []string{"stripe:charge:*"},
		ResourceConstraints: map[string]any{"max_amount": int64(10000), "currency": "usd"}, RiskTier: "high",
	}
}

func action() *Action {
	return &Action{
		TenantID: "acme", AgentID: "support_agent", Tool: "stripe.refund.create", Resource: "stripe:charge:ch_1", Risk: "high",
		Args: map[string]any{"amount": int64(4900), "currency": "usd"},
	}
}

func code(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

func sign(t testing.TB, c *Claims) string {
	t.Helper()
	token, err := Sign(c, key)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestRoundTrip(t *testing.T) {
	c, err := Verify(sign(t, claims()), keys, want)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Permits(action()); err != nil {
		t.Fatal(err)
	}
	if c.UserID != "u" || c.Goal != "g" || !c.ExpiresAt.Equal(now.Add(5*time.Minute)) {
		t.Errorf("%+v", c)
	}
}

// forge makes a token with any header and payload, signed by k.
func forge(header, payload string, k ed25519.PrivateKey) string {
	b := base64.RawURLEncoding.EncodeToString
	signed := b([]byte(header)) + "." + b([]byte(payload))
	return signed + "." + b(ed25519.Sign(k, []byte(signed)))
}

func payload(t testing.TB, edit func(map[string]any)) string {
	t.Helper()
	part := strings.Split(sign(t, claims()), ".")[1]
	raw, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	edit(m)
	out, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestForgeries(t *testing.T) {
	good := `{"alg":"EdDSA","kid":"k1","typ":"actpass+jwt"}`
	same := func(map[string]any) {}
	token := sign(t, claims())
	parts := strings.Split(token, ".")
	tests := map[string]struct{ token, code string }{
		"alg none":              {base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","kid":"k1","typ":"actpass+jwt"}`)) + "." + parts[1] + ".", ReasonAlgorithm},
		"alg HS256":             {forge(`{"alg":"HS256","kid":"k1","typ":"actpass+jwt"}`, payload(t, same), private), ReasonAlgorithm},
		"other key":             {forge(good, payload(t, same), other), ReasonSignature},
		"tampered":              {parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(payload(t, func(m map[string]any) { m["agent_id"] = "x" }))) + "." + parts[2], ReasonSignature},
		"unknown kid":           {forge(`{"alg":"EdDSA","kid":"k2","typ":"actpass+jwt"}`, payload(t, same), private), ReasonKey},
		"kid is a path":         {forge(`{"alg":"EdDSA","kid":"../../k1","typ":"actpass+jwt"}`, payload(t, same), private), ReasonKey},
		"kid is a URL":          {forge(`{"alg":"EdDSA","kid":"https://evil/k","typ":"actpass+jwt"}`, payload(t, same), private), ReasonKey},
		"no kid":                {forge(`{"alg":"EdDSA","typ":"actpass+jwt"}`, payload(t, same), private), ReasonKey},
		"jwk in the header":     {forge(`{"alg":"EdDSA","kid":"k1","typ":"actpass+jwt","jwk":{}}`, payload(t, same), private), ReasonMalformed},
		"another typ":           {forge(`{"alg":"EdDSA","kid":"k1","typ":"JWT"}`, payload(t, same), private), ReasonMalformed},
		"expired":               {forge(good, payload(t, func(m map[string]any) { m["iat"] = now.Unix() - 600; m["exp"] = now.Unix() - 6 }), private), ReasonExpired},
		"not yet":               {forge(good, payload(t, func(m map[string]any) { m["iat"] = now.Unix() + 6; m["exp"] = now.Unix() + 60 }), private), ReasonNotYet},
		"lives too long":        {forge(good, payload(t, func(m map[string]any) { m["exp"] = now.Add(2 * time.Hour).Unix() }), private), ReasonMalformed},
		"no expiry":             {forge(good, payload(t, func(m map[string]any) { delete(m, "exp") }), private), ReasonMalformed},
		"other issuer":          {forge(good, payload(t, func(m map[string]any) { m["iss"] = "evil" }), private), ReasonIssuer},
		"other audience":        {forge(good, payload(t, func(m map[string]any) { m["aud"] = "elsewhere" }), private), ReasonAudience},
		"audience as list":      {forge(good, payload(t, func(m map[string]any) { m["aud"] = []string{"actpass"} }), private), ReasonMalformed},
		"unknown claim":         {forge(good, payload(t, func(m map[string]any) { m["admin"] = true }), private), ReasonMalformed},
		"unknown constraint":    {forge(good, payload(t, func(m map[string]any) { m["resource_constraints"] = map[string]any{"max_amonut": 1} }), private), ReasonConstraint},
		"constraint of no type": {forge(good, payload(t, func(m map[string]any) { m["resource_constraints"] = map[string]any{"max_amount": "1"} }), private), ReasonConstraint},
		"jti of another form":   {forge(good, payload(t, func(m map[string]any) { m["jti"] = "1" }), private), ReasonMalformed},
		"no tenant":             {forge(good, payload(t, func(m map[string]any) { delete(m, "tenant_id") }), private), ReasonMalformed},
		"a claim twice":         {forge(good, strings.Replace(payload(t, same), `"agent_id":"support_agent"`, `"agent_id":"support_agent","agent_id":"x"`, 1), private), ReasonMalformed},
		"a claim in capitals":   {forge(good, strings.Replace(payload(t, same), `"agent_id"`, `"Agent_ID"`, 1), private), ReasonMalformed},
		"a member twice":        {forge(`{"alg":"none","alg":"EdDSA","kid":"k1","typ":"actpass+jwt"}`, payload(t, same), private), ReasonMalformed},
		"a second document":     {forge(good, payload(t, same)+`{}`, private), ReasonMalformed},
		"a line break":          {token[:20] + "\n" + token[20:], ReasonMalformed},
		"padded":                {token + "=", ReasonMalformed},
		"a fourth part":         {token + ".e30", ReasonMalformed},
		"a number without end":  {forge(good, strings.Replace(payload(t, same), `"max_amount":10000`, `"max_amount":1e999`, 1), private), ReasonMalformed},
		"not a token":           {"nonsense", ReasonMalformed},
		"empty":                 {"", ReasonMalformed},
		"huge":                  {strings.Repeat("a", maxToken+1), ReasonMalformed},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c, err := Verify(tt.token, keys, want)
			if code(err) != tt.code {
				t.Fatalf("got %v (%v), want %s", err, c, tt.code)
			}
		})
	}
}

func TestLeeway(t *testing.T) {
	c := claims()
	token := sign(t, c)
	for after, ok := range map[time.Duration]bool{-5 * time.Second: true, -6 * time.Second: false, 304 * time.Second: true, 305 * time.Second: false} {
		at := want
		at.Now = now.Add(after)
		if _, err := Verify(token, keys, at); (err == nil) != ok {
			t.Errorf("%s after issue: %v", after, err)
		}
	}
}

func TestPermits(t *testing.T) {
	tests := map[string]struct {
		claims func(*Claims)
		action func(*Action)
		code   string
	}{
		"as it is":             {nil, nil, ""},
		"tenant":               {nil, func(a *Action) { a.TenantID = "x" }, ReasonTenant},
		"agent":                {nil, func(a *Action) { a.AgentID = "x" }, ReasonAgent},
		"tool":                 {nil, func(a *Action) { a.Tool = "stripe.payout.create" }, ReasonTool},
		"no tools":             {func(c *Claims) { c.AllowedTools = nil }, nil, ReasonTool},
		"resource":             {nil, func(a *Action) { a.Resource = "stripe:customer:1" }, ReasonResource},
		"no resources":         {func(c *Claims) { c.AllowedResources = nil }, nil, ReasonResource},
		"risk":                 {nil, func(a *Action) { a.Risk = "critical" }, ReasonRisk},
		"unknown risk":         {nil, func(a *Action) { a.Risk = "odd" }, ReasonRisk},
		"over the amount":      {nil, func(a *Action) { a.Args["amount"] = int64(25000) }, ReasonConstraint},
		"below nothing":        {nil, func(a *Action) { a.Args["amount"] = int64(-1) }, ReasonConstraint},
		"a bit below nothing":  {nil, func(a *Action) { a.Args["amount"] = -0.01 }, ReasonConstraint},
		"no number":            {nil, func(a *Action) { a.Args["amount"] = math.NaN() }, ReasonConstraint},
		"nothing":              {nil, func(a *Action) { a.Args["amount"] = int64(0) }, ""},
		"amount as text":       {nil, func(a *Action) { a.Args["amount"] = "1" }, ReasonConstraint},
		"no amount":            {nil, func(a *Action) { delete(a.Args, "amount") }, ReasonConstraint},
		"currency":             {nil, func(a *Action) { a.Args["currency"] = "eur" }, ReasonConstraint},
		"minimum":              {func(c *Claims) { c.ResourceConstraints["min_amount"] = int64(5000) }, nil, ReasonConstraint},
		"beyond 2^53":          {func(c *Claims) { c.ResourceConstraints["max_amount"] = int64(1<<53 + 1) }, func(a *Action) { a.Args["amount"] = int64(1<<53 + 2) }, ReasonConstraint},
		"a fraction past 2^53": {func(c *Claims) { c.ResourceConstraints["max_amount"] = int64(1<<53 + 3) }, func(a *Action) { a.Args["amount"] = float64(1<<53 + 4) }, ReasonConstraint},
		"a fraction within":    {func(c *Claims) { c.ResourceConstraints["max_amount"] = 100.5 }, func(a *Action) { a.Args["amount"] = int64(100) }, ""},
		"one of":               {func(c *Claims) { c.ResourceConstraints["one_of"] = map[string]any{"reason": []any{"duplicate"}} }, func(a *Action) { a.Args["reason"] = "duplicate" }, ""},
		"not one of":           {func(c *Claims) { c.ResourceConstraints["one_of"] = map[string]any{"reason": []any{"duplicate"}} }, func(a *Action) { a.Args["reason"] = "x" }, ReasonConstraint},
		"prefix":               {func(c *Claims) { c.ResourceConstraints["prefix"] = map[string]any{"charge": "ch_"} }, func(a *Action) { a.Args["charge"] = "py_1" }, ReasonConstraint},
		"equals, nested":       {func(c *Claims) { c.ResourceConstraints["equals"] = map[string]any{"m.k": "v"} }, func(a *Action) { a.Args["m"] = map[string]any{"k": "v"} }, ""},
		"equals, another":      {func(c *Claims) { c.ResourceConstraints["equals"] = map[string]any{"m.k": "v"} }, nil, ReasonConstraint},
		"the request":          {func(c *Claims) { c.ApprovalHash = "aa" }, func(a *Action) { a.RequestHash = "aa" }, ""},
		"another request":      {func(c *Claims) { c.ApprovalHash = "aa" }, func(a *Action) { a.RequestHash = "ab" }, ReasonRequest},
		"an unnamed request":   {func(c *Claims) { c.ApprovalHash = "aa" }, nil, ReasonRequest},
		"a glob in resources":  {func(c *Claims) { c.AllowedResources = []string{"*:ch_*"} }, nil, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c, a := claims(), action()
			if tt.claims != nil {
				tt.claims(c)
			}
			if tt.action != nil {
				tt.action(a)
			}
			if err := c.Permits(a); code(err) != tt.code {
				t.Fatalf("got %v, want %q", err, tt.code)
			}
		})
	}
}

// TestChildNeverWider: where Contains says yes, nothing that the child permits
// is refused by its parent.
func TestChildNeverWider(t *testing.T) {
	word := rapid.SampledFrom([]string{"a", "b", "a.b", "a.*", "*", "a*b", "*b", "ab", "a.b*", "a*b*", "**"})
	text := rapid.SampledFrom([]string{"", "u", "us", "usd", "eur"})
	amount := rapid.Int64Range(0, 3)
	number := rapid.OneOf(rapid.Map(amount, func(n int64) any { return n }), rapid.SampledFrom([]any{0.5, 2.5}))
	value := rapid.OneOf(number, rapid.Map(text, func(s string) any { return s }), rapid.SampledFrom([]any{nil, true}))
	constraint := map[string]*rapid.Generator[any]{
		"max_amount": number, "min_amount": number, "currency": rapid.Map(text, func(s string) any { return s }),
		"max": about(number), "min": about(number), "equals": about(value), "prefix": about(rapid.Map(text, func(s string) any { return s })),
		"one_of": about(rapid.Map(rapid.SliceOfN(value, 1, 3), func(l []any) any { return l })),
	}
	gen := rapid.Custom(func(t *rapid.T) *Claims {
		c := claims()
		c.AgentID = rapid.SampledFrom([]string{"*", "support_agent", "other"}).Draw(t, "agent")
		c.AllowedTools = rapid.SliceOfN(word, 1, 3).Draw(t, "tools")
		c.AllowedResources = rapid.SliceOfN(word, 1, 3).Draw(t, "resources")
		c.RiskTier = rapid.SampledFrom([]string{"", "low", "high", "critical"}).Draw(t, "risk")
		c.ApprovalHash = rapid.SampledFrom([]string{"", "", "aa", "bb"}).Draw(t, "request")
		c.ResourceConstraints = map[string]any{}
		for name, of := range constraint {
			if rapid.IntRange(0, 5).Draw(t, name+"?") == 0 {
				c.ResourceConstraints[name] = of.Draw(t, name)
			}
		}
		return c
	})
	action := rapid.Custom(func(t *rapid.T) *Action {
		a := action()
		a.Tool = rapid.SampledFrom([]string{"a", "b", "a.b", "a.c", "ab", "axb", "xb", "axbx"}).Draw(t, "tool")
		a.Resource = rapid.SampledFrom([]string{"a", "b", "a.b", "a.c", "ab", "axb"}).Draw(t, "resource")
		a.Risk = rapid.SampledFrom(tiers).Draw(t, "risk")
		a.Args = map[string]any{}
		for _, name := range []string{"amount", "currency", "x"} {
			if rapid.IntRange(0, 4).Draw(t, name+"?") > 0 {
				a.Args[name] = value.Draw(t, name)
			}
		}
		return a
	})
	var contained, permitted int
	rapid.Check(t, func(t *rapid.T) {
		parent, child := gen.Draw(t, "parent"), gen.Draw(t, "child")
		if rapid.Bool().Draw(t, "derived") { // from the parent, by a change or two: drawn apart, few are contained
			c := *parent
			c.AgentID = "support_agent"
			c.ResourceConstraints = maps.Clone(parent.ResourceConstraints)
			if names := sortedKeys(c.ResourceConstraints); len(names) > 0 {
				name := rapid.SampledFrom(names).Draw(t, "changed")
				c.ResourceConstraints[name] = constraint[name].Draw(t, "to")
			}
			if rapid.Bool().Draw(t, "tools") {
				c.AllowedTools = child.AllowedTools
			}
			child = &c
		}
		if parent.Contains(child) != nil {
			return
		}
		contained++
		if parent.AgentID == "*" { // as a ceiling of a key that speaks for none has it
			p := *parent
			p.AgentID = child.AgentID
			parent = &p
		}
		for range 64 {
			a := action.Draw(t, "action")
			a.AgentID, a.RequestHash = child.AgentID, child.ApprovalHash
			if child.Permits(a) == nil {
				permitted++
				if err := parent.Permits(a); err != nil {
					t.Fatalf("the child permits what its parent refuses: %v", err)
				}
			}
		}
	})
	if contained == 0 || permitted == 0 {
		t.Errorf("%d children were contained, and permitted %d actions: nothing was tried", contained, permitted)
	}
	if err := claims().Contains(claims()); err != nil {
		t.Errorf("a passport does not contain itself: %v", err)
	}
}

// about is a constraint on one or both of two arguments.
func about(of *rapid.Generator[any]) *rapid.Generator[any] {
	return rapid.Custom(func(t *rapid.T) any {
		m := map[string]any{}
		for _, arg := range rapid.SampledFrom([][]string{{"x"}, {"amount"}, {"currency"}, {"x", "amount"}}).Draw(t, "args") {
			m[arg] = of.Draw(t, arg)
		}
		return m
	})
}

func TestJWKS(t *testing.T) {
	data, err := json.Marshal(JWKS{Keys: []JWK{PublicJWK("k1", private.Public().(ed25519.PublicKey))}})
	if err != nil {
		t.Fatal(err)
	}
	found, err := ParseJWKS(data)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(sign(t, claims()), found, want); err != nil {
		t.Error(err)
	}
	if _, err := ParseJWKS([]byte(`{"keys":[{"kty":"RSA","kid":"k1"}]}`)); err == nil {
		t.Error("an RSA key was taken")
	}
}

func FuzzVerify(f *testing.F) {
	c := claims()
	token, err := Sign(c, key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(token)
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, s string) {
		if c, err := Verify(s, keys, want); err == nil && s != token {
			t.Fatalf("accepted %q: %+v", s, c)
		}
	})
}

// TestVerifyIsLean holds what the figure of the benchmark stands on, and no
// busy machine changes: a verification is the signature and little else.
func TestVerifyIsLean(t *testing.T) {
	token := sign(t, claims())
	n := testing.AllocsPerRun(50, func() {
		if _, err := Verify(token, keys, want); err != nil {
			t.Fatal(err)
		}
	})
	if n > 40 {
		t.Errorf("%.0f allocations", n)
	}
}

// BenchmarkVerify verifies a passport and, in turns with it, the bare signature.
// The figure is how many times the bare one a passport costs: below 1.6.
func BenchmarkVerify(b *testing.B) {
	token, err := Sign(claims(), key)
	if err != nil {
		b.Fatal(err)
	}
	i := strings.LastIndexByte(token, '.')
	sig, _ := base64.RawURLEncoding.DecodeString(token[i+1:])
	pub := private.Public().(ed25519.PublicKey)
	var whole, raw time.Duration
	for b.Loop() {
		began := time.Now()
		if _, err := Verify(token, keys, want); err != nil {
			b.Fatal(err)
		}
		between := time.Now()
		if !ed25519.Verify(pub, []byte(token[:i]), sig) {
			b.Fatal()
		}
		whole, raw = whole+between.Sub(began), raw+time.Since(between)
	}
	b.ReportMetric(float64(whole)/float64(b.N), "ns/passport")
	b.ReportMetric(float64(raw)/float64(b.N), "ns/raw")
	b.ReportMetric(float64(whole)/float64(raw), "x-raw")
}
