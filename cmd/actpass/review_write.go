package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/actpass/sidecar/whatif"
)

// finish writes what came of the review.
func (q *review) finish(out io.Writer) error {
	texts := q.walk.Texts()
	fixtures, notes := q.walk.Fixtures()
	accepted := len(q.walk.Drafts())
	fmt.Fprintf(out, "\n%d accepted, %d rightly blocked, %d ignored.\n", accepted, q.blocked, q.ignored)
	for _, n := range notes {
		fmt.Fprintf(out, "Note: %s.\n", plain(n))
	}
	for name, t := range texts {
		old, err := os.ReadFile(name)
		switch {
		case errors.Is(err, fs.ErrNotExist) && q.embedded:
			texts[name] = whatif.NewFile(t.Bytes())
			fmt.Fprintf(out, "Note: the policies are those in the binary; %s is made of them, for policy.files of a configuration to name.\n", plain(name))
		case err != nil:
			return finding("read the policy again: %v", err)
		case !bytes.Equal(old, t.Old()):
			return finding("%s is not the text that was reviewed any more: review again", name)
		}
	}
	if fixtures != "" {
		name := q.fixtureName(fixtures)
		if old, err := os.ReadFile(name); err == nil && string(old) != fixtures {
			return finding("%s is there already: name another with --fixtures", name)
		} else if err != nil {
			texts[name] = whatif.NewFile([]byte(fixtures))
		}
	}
	if len(texts) == 0 {
		fmt.Fprintln(out, "There is nothing to write.")
		return nil
	}
	names := slices.Sorted(maps.Keys(texts))
	if q.write {
		for _, name := range names {
			if err := replaceFile(name, texts[name].Bytes()); err != nil {
				return usage("write %s: %v", name, err)
			}
			fmt.Fprintf(out, "Wrote %s.\n", plain(name))
		}
	} else if err := q.patch(out, names, texts); err != nil {
		return err
	}
	if accepted > 0 {
		fmt.Fprintln(out, "Raise the version of the policies that changed, and run actpass test.")
	}
	return nil
}

func (q *review) patch(out io.Writer, names []string, texts map[string]*whatif.Text) error {
	dir, paths, err := q.patchPaths(names)
	if err != nil {
		return err
	}
	var b strings.Builder
	for i, name := range names {
		b.WriteString(texts[name].Patch(paths[i]))
	}
	if q.out == "" {
		fmt.Fprintln(out)
		_, err := io.WriteString(out, b.String())
		return err
	}
	if err := os.WriteFile(q.out, []byte(b.String()), 0o644); err != nil {
		return usage("write the patch: %v", err)
	}
	in := ""
	if dir != "." {
		in = " -d " + plain(dir)
	}
	fmt.Fprintf(out, "Wrote %s: patch%s -p1 < %s\n", plain(q.out), in, plain(q.out))
	return nil
}

// patchPaths names files as a patch does: below where the command runs, else
// below the configuration file.
func (q *review) patchPaths(names []string) (dir string, paths []string, err error) {
	for _, dir := range []string{".", q.cfg.Dir} {
		paths, err := below(dir, names)
		if err == nil {
			return dir, paths, nil
		}
	}
	return "", nil, finding("the policy files stand in several places, which one patch cannot name: use --write")
}

func below(dir string, names []string) ([]string, error) {
	base, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	paths := make([]string, len(names))
	for i, name := range names {
		abs, err := filepath.Abs(name)
		if err != nil {
			return nil, err
		}
		if paths[i], err = filepath.Rel(base, abs); err != nil || !filepath.IsLocal(paths[i]) || strings.ContainsAny(paths[i], "\n\t\"\\") {
			return nil, errAway
		}
		paths[i] = filepath.ToSlash(paths[i])
	}
	return paths, nil
}

// fixtureName is beside the first policy, where actpass test looks.
func (q *review) fixtureName(text string) string {
	if q.fixtures != "" {
		return q.fixtures
	}
	sum := sha256.Sum256([]byte(text))
	first := q.walk.Rules().Policy.Sources()[0].Name
	if d := q.walk.Drafts(); len(d) > 0 {
		first = d[0].Pos.File
	}
	return filepath.Join(filepath.Dir(first), "fixtures", "review_"+hex.EncodeToString(sum[:4])+".yaml")
}

// replaceFile writes a file whole or not at all, with the rights that it had.
func replaceFile(name string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	mode := fs.FileMode(0o644)
	if real, err := filepath.EvalSymlinks(name); err == nil {
		name = real
		if info, err := os.Stat(name); err == nil {
			mode = info.Mode().Perm()
		}
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(text)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}
