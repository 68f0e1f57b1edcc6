// Package launch prepares the environment of a child process so that the common runtimes send their HTTP and HTTPS through
// the sidecar and trust its certificate authority.
//
// Three things do it. Proxy variables (HTTPS_PROXY and its spellings) point at the forward door. A bundle of the system's
// roots and the sidecar's own stands in every variable by which a runtime takes its roots; those variables replace the
// roots rather than add to them, hence the bundle. And for the two runtimes that ignore the proxy variables there is a
// preload for Node (preload.cjs, by NODE_OPTIONS) and system properties with a truststore for Java (by JAVA_TOOL_OPTIONS).
//
// All of it asks and none of it forces: a program may clear its environment, open a socket by hand or bring its own roots.
// What such a program sends is neither seen nor stopped here.
package launch

import (
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

//go:embed preload.cjs
var preload []byte

// Options says where the sidecar listens and what the child would have inherited.
type Options struct {
	// ProxyURL is the forward door, http://HOST:PORT or http://AGENT:KEY@HOST:PORT. Required.
	ProxyURL string
	// ReverseURL and APIURL are the other two listeners; empty leaves their variables unset. What is sent to them never goes
	// through the forward door.
	ReverseURL, APIURL string
	// CAPEM is the sidecar's CA certificate, PEM. Required.
	CAPEM []byte
	// Environ is the parent's environment as os.Environ gives it. It is not read from the process.
	Environ []string
	// NoProxy lists what the child reaches directly: host, .suffix, address, CIDR or host:port. Nil is Loopback; an empty,
	// non-nil list is nothing at all. A NO_PROXY of the parent is never taken over: it would be a hole nobody asked for.
	NoProxy []string
}

// Loopback is the default of Options.NoProxy. The sidecar refuses to dial loopback addresses, so a development server on
// localhost would otherwise be out of the child's reach.
var Loopback = []string{"localhost", "127.0.0.1", "::1"}

// Env is a prepared environment. Its files live in the directory given to Prepare, and must outlive the child.
type Env struct {
	environ  []string
	warnings []string
}

// Environ is the child's whole environment, in the form of os.Environ, without duplicates.
func (e *Env) Environ() []string { return append([]string(nil), e.environ...) }

// Warnings are sentences for the person who started the child: what of their environment could not be carried over.
func (e *Env) Warnings() []string { return append([]string(nil), e.warnings...) }

// Names of the files in the directory.
const (
	caFile        = "ca.pem"         // the sidecar's CA alone
	bundleFile    = "bundle.pem"     // all roots, for variables that replace
	nodeExtraFile = "node-extra.pem" // ours and what the parent's NODE_EXTRA_CA_CERTS named, for the variable that adds
	trustFile     = "truststore.jks" // bundle.pem for Java
	preloadFile   = "preload.cjs"
)

// Prepare writes the child's files into dir, which it creates with mode 0700 when it is not there, and works out the
// environment. The directory holds code that the child will run, so one that others may write to is refused.
func Prepare(dir string, opt Options) (*Env, error) {
	proxy, err := parseProxy(opt.ProxyURL)
	if err != nil {
		return nil, err
	}
	if dir, err = privateDir(dir); err != nil {
		return nil, err
	}

	parent := parseEnviron(opt.Environ)
	files, warnings, err := trustFiles(opt.CAPEM, parent)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		if err := os.WriteFile(filepath.Join(dir, f.name), f.data, 0o600); err != nil {
			return nil, fmt.Errorf("prepare the child's files: %w", err)
		}
	}

	noProxy := opt.NoProxy
	if noProxy == nil {
		noProxy = Loopback
	}
	vars := variables(settings{
		dir: dir, proxy: proxy, proxyURL: opt.ProxyURL, reverseURL: opt.ReverseURL, apiURL: opt.APIURL,
		noProxy: noProxy, parent: parent,
	})
	return &Env{
		environ:  merge(parent, vars),
		warnings: append(warnings, proxyWarnings(parent)...),
	}, nil
}

type file struct {
	name string
	data []byte
}

// trustFiles are the files of a child whose parent has the given environment.
func trustFiles(caPEM []byte, parent environment) ([]file, []string, error) {
	own := certificates(caPEM)
	if len(own) == 0 {
		return nil, nil, errors.New("prepare the child's trust: the sidecar's CA holds no certificate in PEM form")
	}
	roots, err := collectRoots(parent, systemRoots)
	if err != nil {
		return nil, nil, err
	}
	bundle := union(roots.bundle, own)
	return []file{
		{caFile, encodePEM(own)},
		{bundleFile, encodePEM(bundle)},
		{nodeExtraFile, encodePEM(union(roots.nodeExtra, own))},
		{trustFile, encodeJKS(bundle)},
		{preloadFile, preload},
	}, roots.warnings, nil
}

// parseProxy accepts what every runtime can use: clients differ in how they take a TLS proxy or one without a port.
func parseProxy(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil {
		// url.Error quotes its input, which may hold a key.
		return nil, errors.New("prepare the child's proxy: the proxy URL does not parse; give http://HOST:PORT")
	}
	port, err := strconv.Atoi(u.Port())
	if u.Scheme != "http" || u.Hostname() == "" || err != nil || port <= 0 || port > 65535 ||
		(u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("prepare the child's proxy: %q is not of the form http://HOST:PORT", u.Redacted())
	}
	return u, nil
}

func privateDir(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("prepare the child's directory: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("prepare the child's directory: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return "", fmt.Errorf("prepare the child's directory: %w", err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || info.Mode().Perm()&0o077 != 0 || !ok || int(stat.Uid) != os.Geteuid() {
		return "", fmt.Errorf("prepare the child's directory: %s is not a directory of mode 0700 that belongs to this user; give a new one", dir)
	}
	return dir, nil
}
