// Package config reads, checks and compiles the settings: one documented
// struct, read from file < environment < flags, validated whole, and swapped
// whole on reload. Only this package knows viper.
package config

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/actpass/sidecar/strictyaml"
)

// Config is every setting. A key's name in the file is its yaml tag; in the
// environment it is ACTPASS_ and the path in capitals with underscores
// (ACTPASS_LISTEN_PROXY); lists are given there with commas. Relative paths are
// relative to the directory of the configuration file.
type Config struct {
	// Mode is what happens to a call that policy does not simply allow: monitor
	// (default), warn, enforce, strict.
	Mode string `yaml:"mode"`
	// ModeOverrides tighten the mode for part of the traffic. The strictest of all
	// that apply holds; none can loosen Mode.
	ModeOverrides []Override `yaml:"mode_overrides"`
	// DataDir holds keys, CA, log and database; created 0700. Default ./data.
	// Needs a restart.
	DataDir string `yaml:"data_dir"`
	// Identity is who calls when no key says so.
	Identity Identity `yaml:"identity"`
	// Listen addresses, host:port; "" or "off" closes a door. Needs a restart.
	Listen    Listen    `yaml:"listen"`
	Intercept Intercept `yaml:"intercept"`
	// CA is the one that signs for intercepted hosts.
	CA       CA       `yaml:"ca"`
	Upstream Upstream `yaml:"upstream"`
	// Routes are the reverse door's: http://LISTEN/NAME/... and
	// http://NAME.localhost:PORT/... go to the upstream.
	Routes    []Route   `yaml:"routes"`
	Mapping   Mapping   `yaml:"mapping"`
	Policy    Policy    `yaml:"policy"`
	Passport  Passport  `yaml:"passport"`
	Limits    Limits    `yaml:"limits"`
	Store     Store     `yaml:"store"`
	Evidence  Evidence  `yaml:"evidence"`
	Notify    Notify    `yaml:"notify"`
	Dashboard Dashboard `yaml:"dashboard"`
	Log       Log       `yaml:"log"`

	// File is where it was read from, "" for the embedded defaults; Dir is what
	// relative paths are relative to.
	File string `yaml:"-"`
	Dir  string `yaml:"-"`

	places strictyaml.Places
}

// Override sets a stricter mode for the calls that match both globs.
type Override struct {
	Tool  string `yaml:"tool"`  // glob over tool names, "" for every tool
	Agent string `yaml:"agent"` // glob over agent ids, "" for every agent
	Mode  string `yaml:"mode"`
}

// Identity of the sidecar's own agent.
type Identity struct {
	TenantID string `yaml:"tenant_id"` // default "default"
	AgentID  string `yaml:"agent_id"`  // default "agent"
	// ServiceAccount, where its token_file is set, says who the agent is in the place
	// of agent_id. Needs a restart.
	ServiceAccount ServiceAccount `yaml:"service_account"`
}

// ServiceAccount is proved by a token of Kubernetes, projected into the pod: the agent
// is NAMESPACE/NAME of its subject.
type ServiceAccount struct {
	TokenFile string `yaml:"token_file"` // the token; read again when it changes
	Issuer    string `yaml:"issuer"`     // iss that it must have, as the cluster's API server is started with
	Audience  string `yaml:"audience"`   // aud that it must have, default actpass
	// The issuer's public keys: JWKSFile, or JWKSURL (https), which is asked again for
	// keys that are not known, at most once in ten seconds. CAFile holds further roots for
	// it, and BearerFile a token to ask with.
	JWKSFile   string `yaml:"jwks_file"`
	JWKSURL    string `yaml:"jwks_url"`
	CAFile     string `yaml:"ca_file"`
	BearerFile string `yaml:"bearer_file"`
}

// Listen addresses of the doors.
type Listen struct {
	Proxy   string `yaml:"proxy"`   // forward proxy, default 127.0.0.1:8080
	Reverse string `yaml:"reverse"` // base URLs, default 127.0.0.1:8081
	API     string `yaml:"api"`     // preflight, keys, approvals, evidence, default 127.0.0.1:8090
	// Transparent takes connections that the kernel redirects (Linux), default off.
	// localhost:PORT listens on 127.0.0.1 and on ::1, where redirects of either
	// family arrive.
	Transparent string `yaml:"transparent"`
}

// CA names one that was made elsewhere, such as by cert-manager, both files or none: a
// self-signed certificate and its key, in PEM form, read again when they change.
// Without, it is made at the first start, in DataDir. Needs a restart.
type CA struct {
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
}

// Intercept says which CONNECTs are opened and read.
type Intercept struct {
	Scope       string   `yaml:"scope"`       // all (default), or mapped: only hosts that a mapping rule names
	Passthrough []string `yaml:"passthrough"` // host patterns that are tunnelled unread; policy judges them as http.connect
}

// Upstream says how providers are reached.
type Upstream struct {
	ConnectTo    []ConnectTo `yaml:"connect_to"`
	AllowPrivate []string    `yaml:"allow_private"` // CIDRs that may be dialled although private
	CAFile       string      `yaml:"ca_file"`       // PEM, extra roots for upstream TLS
	// ResponseTimeout bounds the wait for an answer's first byte, default 10m:
	// models think long.
	ResponseTimeout Duration `yaml:"response_timeout"`
	// Mark is the mark (SO_MARK) of connections to upstreams, 0 for none: for redirect
	// rules that know the sidecar by it rather than by its uid. Needs CAP_NET_ADMIN.
	Mark int `yaml:"mark"`
	// ConnectTimeout bounds dialling and the TLS handshake each, default 10s.
	ConnectTimeout Duration `yaml:"connect_timeout"`
}

// ConnectTo sends connections for Host:Port to Address; TLS name and Host stay.
type ConnectTo struct {
	Host    string `yaml:"host"`
	Port    int    `yaml:"port"`
	Address string `yaml:"address"` // ip:port or host:port
}

// Route is one upstream of the reverse door.
type Route struct {
	Name     string `yaml:"name"`
	Upstream string `yaml:"upstream"` // https://host[:port][/prefix]
}

// Mapping gives calls their names.
type Mapping struct {
	Packs []string `yaml:"packs"` // of the embedded catalogue
	Files []string `yaml:"files"` // globs; their rules come before the packs'
	// Descriptors are globs of protobuf FileDescriptorSets: the messages of the
	// gRPC methods that they know are read by field name.
	Descriptors []string `yaml:"descriptors"`
	Unmapped    string   `yaml:"unmapped"` // generic (default): http.<method>; deny: refused under enforce and strict
}

// Policy judges them.
type Policy struct {
	Files   []string `yaml:"files"`   // globs
	Default string   `yaml:"default"` // where no rule matches: deny (default), require_approval, allow
}

// Passport says whose passports are believed. The keys that sign them are in
// the data directory.
type Passport struct {
	// Issuer is iss of the passports that are made and believed here, default
	// actpass.
	Issuer string `yaml:"issuer"`
	// Audience is aud of the passports that are believed here, and of those that
	// are made without another, default actpass. Sidecars that share keys and must
	// not accept each other's passports get different ones.
	Audience string `yaml:"audience"`
	// File holds one passport for calls to risky tools that present none, as it is
	// mounted into a pod; read again when it changes. Not used by the API.
	File string `yaml:"file"`
}

// Limits bound what one call, and all of them, may cost.
type Limits struct {
	MaxInspectBytes Size     `yaml:"max_inspect_bytes"` // of a body that is read before deciding, default 1MiB
	Hold            Duration `yaml:"hold"`              // a held call's wait before its client is told to come back, default 50s
	MaxHolds        int      `yaml:"max_holds"`         // approvals that are pending at a time, default 10000
	// MaxHoldsPerAgent bounds those of each agent, default 1000; above max_holds it
	// bounds nothing.
	MaxHoldsPerAgent int `yaml:"max_holds_per_agent"`
	APIRate          int `yaml:"api_rate"` // API calls a second of each key, twice as many at once; default 200, 0 no bound. Needs a restart
}

// Store keeps keys, approvals and limits. All of it needs a restart.
type Store struct {
	// Driver is sqlite (default): a file in data_dir, of one sidecar; or postgres: a
	// database that several share.
	Driver string `yaml:"driver"`
	// DSN is the connection string of postgres, a URL or key=value pairs; DSNFile
	// names a file that holds it instead. It is a secret and shown nowhere.
	DSN     string `yaml:"dsn"`
	DSNFile string `yaml:"dsn_file"`
	// Evidence is shared (default): postgres gets a copy of the log, for a control to
	// show; or local: it stays in data_dir. Of no effect with sqlite.
	Evidence string `yaml:"evidence"`
	// EvidenceKeep is how long that copy stays in the database, default 0: for ever; at
	// least 1d. A control (serve --role control) removes what came longer ago, oldest
	// first, and puts that on record; sidecars remove nothing there. Their own logs, in
	// their data_dir, are not touched.
	EvidenceKeep Duration `yaml:"evidence_keep"`
	// KeyFile names a file with a secret of 32 characters or more, the same at all
	// sidecars of the database: passports that one makes are believed by all, and
	// answers that one kept are read by all. Without, each has keys of its own.
	KeyFile string `yaml:"key_file"`
	// MaxConns bounds the connections to postgres, default 8; one more while calls
	// are held.
	MaxConns int `yaml:"max_conns"`
	// Keep is how long approvals that were decided or used, grants that are over and
	// dead deliveries stay, default 30d, at least 1d; 0 for ever. What still answers
	// for retries stays longer: a used approval 30 days. The evidence log keeps all.
	Keep Duration `yaml:"keep"`
}

// Evidence is the log.
type Evidence struct {
	// Durability is sync (default): on disk before the first upstream byte; or
	// async: handed to the operating system, on disk within 100 ms. Needs a
	// restart.
	Durability string `yaml:"durability"`
}

// Dashboard is what the pages under /ui/ of listen.api need to know.
type Dashboard struct {
	// Hosts are the names under which a browser may reach it, besides loopback names
	// and IP addresses. Any other name in a request is refused: it could be another
	// site's, made to point here.
	Hosts []string `yaml:"hosts"`
}

// Log is about the process's own log on standard error, not about evidence.
type Log struct {
	Level  string `yaml:"level"`  // debug, info (default), warn, error
	Format string `yaml:"format"` // json (default), console
}

// Default gives the settings that hold where nothing is said.
func Default() *Config {
	return &Config{
		Mode:      "monitor",
		DataDir:   "./data",
		Identity:  Identity{TenantID: "default", AgentID: "agent", ServiceAccount: ServiceAccount{Audience: "actpass"}},
		Listen:    Listen{Proxy: "127.0.0.1:8080", Reverse: "127.0.0.1:8081", API: "127.0.0.1:8090", Transparent: "off"},
		Intercept: Intercept{Scope: "all"},
		Upstream:  Upstream{ResponseTimeout: Duration(10 * time.Minute), ConnectTimeout: Duration(10 * time.Second)},
		Mapping:   Mapping{Unmapped: "generic"},
		Policy:    Policy{Default: "deny"},
		Passport:  Passport{Issuer: "actpass", Audience: "actpass"},
		Limits:    Limits{MaxInspectBytes: 1 << 20, Hold: Duration(50 * time.Second), MaxHolds: 10000, MaxHoldsPerAgent: 1000, APIRate: 200},
		Store:     Store{Driver: "sqlite", Evidence: "shared", MaxConns: 8, Keep: Duration(30 * 24 * time.Hour)},
		Evidence:  Evidence{Durability: "sync"},
		Notify:    Notify{MaxAttempts: 12, Slack: Slack{APIURL: "https://slack.com/api"}},
		Log:       Log{Level: "info", Format: "json"},
	}
}

// Duration reads "50s", "15m", "1h30m", "7d". A bare number is refused: nobody
// can tell which unit was meant.
type Duration time.Duration

// D is the value as a time.Duration.
func (d Duration) D() time.Duration { return time.Duration(d) }

// UnmarshalText reads a duration.
func (d *Duration) UnmarshalText(b []byte) error {
	s := string(b)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.Atoi(days)
		if err == nil && n >= 0 && n < 36500 {
			*d = Duration(time.Duration(n) * 24 * time.Hour)
			return nil
		}
	}
	if _, err := strconv.ParseFloat(s, 64); err == nil && s != "0" {
		return fmt.Errorf("%q has no unit: write %ss, %sm or %sh", s, s, s, s)
	}
	v, err := time.ParseDuration(s)
	if err != nil || v < 0 {
		return fmt.Errorf("%q is not a duration: write for example 50s, 15m, 1h", s)
	}
	*d = Duration(v)
	return nil
}

// MarshalText writes it as it is read.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// Size reads "1MiB", "64KiB", "1048576".
type Size int64

// UnmarshalText reads a size in bytes.
func (z *Size) UnmarshalText(b []byte) error {
	s := strings.TrimSpace(string(b))
	unit := int64(1)
	for _, u := range []struct {
		suffix string
		factor int64
	}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"kB", 1000}, {"KB", 1000}, {"MB", 1000 * 1000}, {"GB", 1000 * 1000 * 1000}, {"B", 1}} {
		if rest, ok := strings.CutSuffix(s, u.suffix); ok {
			s, unit = strings.TrimSpace(rest), u.factor
			break
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > (1<<62)/unit {
		return fmt.Errorf("%q is not a size: write for example 1MiB, 64KiB or a number of bytes", string(b))
	}
	*z = Size(n * unit)
	return nil
}

// Prefixes are the parsed allow_private CIDRs.
func (u Upstream) Prefixes() ([]netip.Prefix, error) {
	var out []netip.Prefix
	var errs []error
	for _, s := range u.AllowPrivate {
		p, err := parsePrefix(s)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, p)
	}
	return out, errors.Join(errs...)
}

func parsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is not a CIDR: write for example 127.0.0.0/8 or 10.1.0.0/16", s)
	}
	return p.Masked(), nil
}
