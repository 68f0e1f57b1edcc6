package launch

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Variable is one variable of an environment.
type Variable struct{ Name, Value string }

// Publish writes the files that a child needs into dir, as Prepare does, for
// programs of other users: a volume that the containers of a pod share. Each file
// is replaced whole, so a reader sees the old one or the new one. The roots are
// those of this process's own system; dir is made where it is missing, readable
// by everybody. It holds code that the readers run: mount it read-only for them.
func Publish(dir string, caPEM []byte, environ []string) (warnings []string, err error) {
	files, warnings, err := trustFiles(caPEM, parseEnviron(environ))
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("publish the trust files: %w", err)
	}
	for _, f := range files {
		if err := replaceFile(filepath.Join(dir, f.name), f.data); err != nil {
			return nil, fmt.Errorf("publish the trust files: %w", err)
		}
	}
	return warnings, nil
}

func replaceFile(path string, data []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(data)
	err = errors.Join(err, tmp.Chmod(0o644), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
	}
	return err
}

// Variables are what a program gets that finds the files of Publish in dir: its
// own values replaced, save NODE_OPTIONS and JAVA_TOOL_OPTIONS, which are joined
// with those in opt.Environ. Options.CAPEM is not used. They touch nothing.
func Variables(dir string, opt Options) ([]Variable, error) {
	proxy, err := parseProxy(opt.ProxyURL)
	if err != nil {
		return nil, err
	}
	noProxy := opt.NoProxy
	if noProxy == nil {
		noProxy = Loopback
	}
	return variables(settings{
		dir: dir, proxy: proxy, proxyURL: opt.ProxyURL, reverseURL: opt.ReverseURL, apiURL: opt.APIURL,
		noProxy: noProxy, parent: parseEnviron(opt.Environ),
	}), nil
}

// LeadsAround says that a variable of this name would lead some runtime past the
// proxy that Variables name, and must not be left standing.
func LeadsAround(name string) bool {
	for _, other := range otherProxies {
		if name == other {
			return true
		}
	}
	return false
}
