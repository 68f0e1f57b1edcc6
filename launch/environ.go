package launch

import (
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
)

// environment is a parsed os.Environ; of duplicates the last stands, as with os/exec.
type environment map[string]string

func parseEnviron(list []string) environment {
	env := make(environment, len(list))
	for _, entry := range list {
		// From the second byte on: Windows names such as "=C:" begin with the separator.
		if i := strings.Index(entry, "="); i > 0 {
			env[entry[:i]] = entry[i+1:]
		}
	}
	return env
}

// caVariables are the variables by which a runtime or tool takes a PEM file of roots. All but NODE_EXTRA_CA_CERTS replace
// the roots that it would have used.
var caVariables = []string{
	"SSL_CERT_FILE",                      // OpenSSL: Go (not on macOS), Python's ssl, Ruby, .NET, wget with OpenSSL; Deno, uv
	"REQUESTS_CA_BUNDLE",                 // Python requests
	"CURL_CA_BUNDLE",                     // curl, Python requests
	"AWS_CA_BUNDLE",                      // AWS CLI, boto3 and other AWS SDKs
	"GIT_SSL_CAINFO",                     // git
	"PIP_CERT",                           // pip
	"CARGO_HTTP_CAINFO",                  // cargo
	"DENO_CERT",                          // Deno
	"HTTPLIB2_CA_CERTS",                  // Python httplib2, Google's API client
	"CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE", // gcloud
	"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",   // gRPC core: C++, Python, Ruby, PHP; grpc-js
	"NIX_SSL_CERT_FILE",                  // programs packaged by Nix
	"COMPOSER_CAFILE",                    // PHP's composer
	"BUNDLE_SSL_CA_CERT",                 // Ruby's bundler
	"NODE_EXTRA_CA_CERTS",                // Node, Bun: adds to the built-in roots
}

// otherProxies are variables that some runtime prefers to HTTPS_PROXY and NO_PROXY. A value left standing would lead
// around the sidecar, so they are removed.
var otherProxies = []string{
	"ftp_proxy", "FTP_PROXY",
	"socks_proxy", "SOCKS_PROXY",
	"ws_proxy", "WS_PROXY", "wss_proxy", "WSS_PROXY",
	"grpc_proxy", "GRPC_PROXY", "no_grpc_proxy", "NO_GRPC_PROXY",
	"npm_config_proxy", "npm_config_http_proxy", "npm_config_https_proxy", "npm_config_noproxy", "npm_config_no_proxy",
	"NPM_CONFIG_PROXY", "NPM_CONFIG_HTTP_PROXY", "NPM_CONFIG_HTTPS_PROXY", "NPM_CONFIG_NOPROXY",
	"YARN_HTTP_PROXY", "YARN_HTTPS_PROXY",
	"CARGO_HTTP_PROXY", "PIP_PROXY",
	"GLOBAL_AGENT_HTTP_PROXY", "GLOBAL_AGENT_HTTPS_PROXY", "GLOBAL_AGENT_NO_PROXY",
}

// proxyVariables are the usual ones. Both spellings are set: for http:// curl obeys only the lower-case one, and where a
// client knows both, which of them wins differs.
var proxyVariables = []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"}

type settings struct {
	dir                          string
	proxy                        *url.URL
	proxyURL, reverseURL, apiURL string
	noProxy                      []string
	parent                       environment
}

// variables are what the child gets instead of, or beyond, what the parent had.
func variables(s settings) []Variable {
	var out []Variable
	set := func(name, value string) { out = append(out, Variable{name, value}) }

	// The sidecar's other listeners are reached directly even when NoProxy is empty.
	noProxy := slices.Clone(s.noProxy)
	for _, raw := range []string{s.reverseURL, s.apiURL} {
		if u, err := url.Parse(raw); err == nil && u.Host != "" && !slices.Contains(noProxy, u.Hostname()) {
			noProxy = append(noProxy, u.Host)
		}
	}
	for _, name := range proxyVariables {
		set(name, s.proxyURL)
		set(strings.ToLower(name), s.proxyURL)
	}
	set("NO_PROXY", strings.Join(noProxy, ","))
	set("no_proxy", strings.Join(noProxy, ","))

	for _, name := range caVariables {
		file := bundleFile
		if name == "NODE_EXTRA_CA_CERTS" {
			file = nodeExtraFile
		}
		set(name, filepath.Join(s.dir, file))
	}

	// Ours comes first, so that nothing that another preload does at load is missed.
	set("NODE_OPTIONS", join("--require "+quoteNodeOption(filepath.Join(s.dir, preloadFile)), s.parent["NODE_OPTIONS"]))
	set("NODE_USE_ENV_PROXY", "1") // Node 24 where NODE_OPTIONS is not heard: single executables
	set("JAVA_TOOL_OPTIONS", join(s.parent["JAVA_TOOL_OPTIONS"], javaOptions(s.proxy, noProxy, filepath.Join(s.dir, trustFile))))

	set("ACTPASS_PROXY_URL", s.proxyURL)
	if s.reverseURL != "" {
		set("ACTPASS_REVERSE_URL", s.reverseURL)
	}
	if s.apiURL != "" {
		set("ACTPASS_API_URL", s.apiURL)
	}
	return out
}

// merge is the parent's environment with vars in place of its own. The parent's ACTPASS_ variables are for the sidecar and
// its operator, ACTPASS_API_KEY and a database's password among them: an agent that inherited an approver's key could
// approve its own calls, so none are handed down.
func merge(parent environment, vars []Variable) []string {
	env := make(environment, len(parent)+len(vars))
	for name, value := range parent {
		if !strings.HasPrefix(name, "ACTPASS_") && !slices.Contains(otherProxies, name) {
			env[name] = value
		}
	}
	for _, v := range vars {
		env[v.Name] = v.Value
	}
	out := make([]string, 0, len(env))
	for name, value := range env {
		out = append(out, name+"="+value)
	}
	slices.Sort(out)
	return out
}

// proxyWarnings says what of a parent that is itself behind a proxy does not carry over.
func proxyWarnings(parent environment) []string {
	for _, name := range proxyVariables {
		if parent[name] != "" || parent[strings.ToLower(name)] != "" {
			return []string{"the " + name + " of this environment is replaced for the child; the sidecar itself connects directly"}
		}
	}
	return nil
}

func join(a, b string) string {
	return strings.TrimSpace(a + " " + b)
}

// quoteNodeOption quotes one word for NODE_OPTIONS, which knows double quotes, and a backslash only inside them.
func quoteNodeOption(word string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(word) + `"`
}

// javaOptions are system properties for HttpURLConnection and java.net.http. The JVM splits JAVA_TOOL_OPTIONS at white
// space, knows quotes of either kind, and of equal properties the last stands: ours must come after the parent's.
func javaOptions(proxy *url.URL, noProxy []string, truststore string) string {
	options := []string{
		"-Dhttp.proxyHost=" + proxy.Hostname(),
		"-Dhttp.proxyPort=" + proxy.Port(),
		"-Dhttps.proxyHost=" + proxy.Hostname(),
		"-Dhttps.proxyPort=" + proxy.Port(),
		"-Dhttp.nonProxyHosts=" + strings.Join(nonProxyHosts(noProxy), "|"),
		"-Djavax.net.ssl.trustStore=" + truststore,
		"-Djavax.net.ssl.trustStoreType=JKS",
		"-Djavax.net.ssl.trustStorePassword=" + trustPassword,
	}
	for i, option := range options {
		options[i] = quoteJavaOption(option)
	}
	return strings.Join(options, " ")
}

func quoteJavaOption(word string) string {
	if !strings.ContainsAny(word, " \t\n\v\f\r\"'") {
		return word
	}
	// There is no escape inside quotes, but pieces in different quotes join up.
	return `"` + strings.ReplaceAll(word, `"`, `"'"'"`) + `"`
}

// nonProxyHosts translates NO_PROXY entries to Java's patterns, where * stands only at the beginning or end. What Java has
// no word for (a port, a network that is no whole number of octets) is left out, so that it is proxied rather than not.
func nonProxyHosts(noProxy []string) []string {
	var out []string
	for _, entry := range noProxy {
		host, _, err := net.SplitHostPort(entry)
		switch {
		case entry == "" || err == nil && host != "":
		case entry == "*":
			out = append(out, "*")
		case strings.Contains(entry, "/"):
			if prefix, err := netip.ParsePrefix(entry); err == nil && prefix.Addr().Is4() && prefix.Bits()%8 == 0 && prefix.Bits() > 0 {
				octets := strings.Split(prefix.Masked().Addr().String(), ".")[:prefix.Bits()/8]
				pattern := strings.Join(octets, ".")
				if prefix.Bits() < 32 {
					pattern += ".*"
				}
				out = append(out, pattern)
			}
		default:
			addr, err := netip.ParseAddr(strings.Trim(entry, "[]"))
			switch {
			case err != nil:
				name := strings.TrimPrefix(strings.TrimPrefix(entry, "*"), ".")
				out = append(out, name, "*."+name)
			case addr.Is4():
				out = append(out, addr.String())
			default:
				out = append(out, "["+addr.String()+"]")
			}
		}
	}
	return out
}
