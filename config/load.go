package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
	"github.com/spf13/viper"

	"github.com/actpass/sidecar/strictyaml"
)

// Source says where the settings come from.
type Source struct {
	// File is the configuration file, "" for Embedded.
	File string
	// Embedded is the content of the configuration to use without a file.
	Embedded []byte
	// Flags override file and environment; a flag's name is the key's path
	// ("listen.proxy"), and only flags that were given count. May be nil.
	Flags *pflag.FlagSet
	// Environ is the environment, os.Environ() form.
	Environ []string
}

// Find resolves the file: the one given, else ACTPASS_CONFIG, else
// ./config.yaml if there is one, else "" for the embedded defaults.
func Find(given string) string {
	if given != "" {
		return given
	}
	if env := os.Getenv("ACTPASS_CONFIG"); env != "" {
		return env
	}
	if _, err := os.Stat("config.yaml"); err == nil {
		return "config.yaml"
	}
	return ""
}

// notSettings are ACTPASS_ variables with another use.
var notSettings = map[string]bool{
	"ACTPASS_CONFIG": true, "ACTPASS_API_KEY": true, "ACTPASS_API_URL": true,
	"ACTPASS_PROXY_URL": true, "ACTPASS_REVERSE_URL": true, "ACTPASS_CA_FILE": true,
}

// Load reads and checks the settings. The error is strictyaml.Faults, all of
// them, or the failure to read the file. What the files it names hold is not
// looked at: see Compile. The settings are given beside the faults, those that
// could not be read at their defaults, so that a check can go on.
func Load(src Source) (*Config, error) {
	name, data := src.File, src.Embedded
	if name == "" {
		name = "config.example.yaml (embedded)"
	} else {
		var err error
		if data, err = os.ReadFile(src.File); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("read configuration: %s does not exist: give --config FILE, set ACTPASS_CONFIG, or start from config.example.yaml", src.File)
			}
			return nil, fmt.Errorf("read configuration: %w", err)
		}
	}
	c := Default()
	var faults strictyaml.Faults
	places, err := strictyaml.DecodePlaces(name, data, c)
	faults.Add(strictyaml.Pos{File: name}, err)
	c.File, c.places, c.Dir = src.File, places, "."
	if src.File != "" {
		c.Dir = filepath.Dir(src.File)
	}
	if err == nil {
		if err := c.override(data, src); err != nil {
			faults.Add(strictyaml.Pos{}, err)
		}
	}
	c.validate(name, &faults)
	return c, faults.Err()
}

// LoadAll is Load and Compile together: every fault of every file at once.
func LoadAll(src Source, embedded fs.FS) (*Config, *Compiled, error) {
	c, err := Load(src)
	var faults strictyaml.Faults
	if err != nil && !errors.As(err, &faults) {
		return nil, nil, err
	}
	compiled, err := c.Compile(embedded)
	var more strictyaml.Faults
	if errors.As(err, &more) {
		for _, f := range more {
			if !slices.Contains(faults, f) {
				faults = append(faults, f)
			}
		}
	} else if err != nil {
		return nil, nil, err
	}
	if err := faults.Err(); err != nil {
		return nil, nil, err
	}
	return c, compiled, nil
}

// override lays environment and flags over what the file said. viper does the
// layering; the strict reading of the file has been done before, because viper
// folds keys, takes the last of two, and lets unknown ones pass.
func (c *Config) override(data []byte, src Source) error {
	v := viper.New()
	v.SetConfigType("yaml")
	if err := v.ReadConfig(bytes.NewReader(data)); err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	var faults strictyaml.Faults
	env := environment(src.Environ)
	known := make(map[string]bool)
	leaves(reflect.ValueOf(c).Elem(), "", func(path string, field reflect.Value) {
		name := "ACTPASS_" + strings.ToUpper(strings.ReplaceAll(path, ".", "_"))
		known[name] = true
		value, fromEnv := env[name]
		if fromEnv && value != "" {
			v.Set(path, value)
		}
		at := strictyaml.Pos{File: "environment variable " + name}
		if src.Flags != nil {
			if f := src.Flags.Lookup(path); f != nil && f.Changed {
				v.Set(path, f.Value.String())
				at = strictyaml.Pos{File: "flag --" + path}
				fromEnv, value = true, f.Value.String()
			}
		}
		if !fromEnv || value == "" {
			return
		}
		c.places[path] = at
		if err := setText(field, v.GetString(path)); err != nil {
			faults.Addf(at, "%v", err)
		}
	})
	names := make([]string, 0, len(known))
	for n := range known {
		names = append(names, n)
	}
	sort.Strings(names)
	for n := range env {
		if known[n] || notSettings[n] {
			continue
		}
		// Kubernetes sets ACTPASS_PORT and the like for a service of that name; only
		// what looks like a misspelt setting is a fault.
		if hint := strictyaml.Suggest(n, names); strings.Contains(hint, "did you mean") {
			faults.Addf(strictyaml.Pos{File: "environment variable " + n}, "is not a setting%s", hint)
		}
	}
	return faults.Err()
}

func environment(environ []string) map[string]string {
	m := make(map[string]string)
	for _, kv := range environ {
		if k, v, ok := strings.Cut(kv, "="); ok && strings.HasPrefix(k, "ACTPASS_") {
			m[k] = v
		}
	}
	return m
}

// leaves visits every setting that one line of text can give.
func leaves(v reflect.Value, path string, visit func(string, reflect.Value)) {
	t := v.Type()
	for i := range t.NumField() {
		tag := t.Field(i).Tag.Get("yaml")
		if tag == "" || tag == "-" {
			continue
		}
		p := tag
		if path != "" {
			p = path + "." + tag
		}
		f := v.Field(i)
		switch {
		case f.Kind() == reflect.Struct:
			leaves(f, p, visit)
		case f.Kind() == reflect.Slice && f.Type().Elem().Kind() != reflect.String && f.Type() != reflect.TypeFor[[]ConnectTo]():
			// A list of mappings has no form as one text.
		default:
			visit(p, f)
		}
	}
}

// Keys lists the paths of all settings that the environment and flags can give.
func Keys() []string {
	var out []string
	leaves(reflect.ValueOf(Default()).Elem(), "", func(p string, _ reflect.Value) { out = append(out, p) })
	return out
}

func setText(f reflect.Value, s string) error {
	switch p := f.Addr().Interface().(type) {
	case *string:
		*p = s
	case *int:
		if _, err := fmt.Sscanf(s, "%d", p); err != nil || fmt.Sprint(*p) != s {
			return fmt.Errorf("%q is not a whole number", s)
		}
	case *[]string:
		*p = nil
		for _, part := range strings.Split(s, ",") {
			if part = strings.TrimSpace(part); part != "" {
				*p = append(*p, part)
			}
		}
	case *[]ConnectTo:
		*p = nil
		for _, part := range strings.Split(s, ",") {
			ct, err := parseConnectTo(strings.TrimSpace(part))
			if err != nil {
				return err
			}
			*p = append(*p, ct)
		}
	case interface{ UnmarshalText([]byte) error }:
		return p.UnmarshalText([]byte(s))
	default:
		panic("config: no text form for " + f.Type().String())
	}
	return nil
}

// parseConnectTo reads HOST:PORT:ADDRESS:PORT, as curl --connect-to.
func parseConnectTo(s string) (ConnectTo, error) {
	parts := strings.SplitN(s, ":", 3)
	if len(parts) == 3 {
		if port, err := strconv.Atoi(parts[1]); err == nil {
			return ConnectTo{Host: parts[0], Port: port, Address: parts[2]}, nil
		}
	}
	return ConnectTo{}, fmt.Errorf("%q must be HOST:PORT:ADDRESS:PORT, such as api.stripe.com:443:127.0.0.1:12112", s)
}

// Path makes a path of the configuration absolute to its directory.
func (c *Config) Path(p string) string {
	if p == "" || filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(c.Dir, p)
}
