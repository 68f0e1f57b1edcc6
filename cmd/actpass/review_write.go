package main

import (
	"bytes"
	"cmp"
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

// changes are the files that a walk changes, and what there is to say of them.
type changes struct {
	texts    map[string]*whatif.Text
	fixtures string // name of the file of fixtures, "" for none
	notes    []string
}

// changesOf gathers what came of a walk. The policy files must still be those
// that were reviewed; embedded says that they are in the binary, and are made now.
func changesOf(w *whatif.Walk, embedded bool, fixtures string) (*changes, error) {
	c := &changes{texts: w.Texts()}
	text, notes := w.Fixtures()
	c.notes = notes
	for name, t := range c.texts {
		old, err := os.ReadFile(name)
		switch {
		case errors.Is(err, fs.ErrNotExist) && embedded:
			c.texts[name] = whatif.NewFile(t.Bytes())
			c.notes = append(c.notes, fmt.Sprintf("the policies are those in the binary; %s is made of them, for policy.files of a configuration to name", name))
		case err != nil:
			return nil, finding("read the policy again: %v", err)
		case !bytes.Equal(old, t.Old()):
			return nil, finding("%s is not the text that was reviewed any more: review again", name)
		}
	}
	if text != "" {
		c.fixtures = cmp.Or(fixtures, fixtureName(w, text))
		if old, err := os.ReadFile(c.fixtures); err == nil && string(old) != text {
			return nil, finding("%s is there already: name another with --fixtures", c.fixtures)
		} else if err != nil {
			c.texts[c.fixtures] = whatif.NewFile([]byte(text))
		}
	}
	return c, nil
}

// names are the files in order.
func (c *changes) names() []string { return slices.Sorted(maps.Keys(c.texts)) }

// patch is the changes as a patch that is applied below dir.
func (c *changes) patch(dir string) (string, error) {
	names := c.names()
	paths, err := below(dir, names)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for i, name := range names {
		b.WriteString(c.texts[name].Patch(paths[i]))
	}
	return b.String(), nil
}

// finish writes what came of the review.
func (q *review) finish(out io.Writer) error {
	accepted := len(q.walk.Drafts())
	fmt.Fprintf(out, "\n%d accepted, %d rightly blocked, %d ignored.\n", accepted, q.blocked, q.ignored)
	c, err := changesOf(q.walk, q.embedded, q.fixtures)
	if err != nil {
		return err
	}
	for _, n := range c.notes {
		fmt.Fprintf(out, "Note: %s.\n", plain(n))
	}
	if len(c.texts) == 0 {
		fmt.Fprintln(out, "There is nothing to write.")
		return nil
	}
	if q.write {
		for _, name := range c.names() {
			if err := replaceFile(name, c.texts[name].Bytes()); err != nil {
				return usage("write %s: %v", name, err)
			}
			fmt.Fprintf(out, "Wrote %s.\n", plain(name))
		}
	} else if err := q.patch(out, c); err != nil {
		return err
	}
	if accepted > 0 {
		fmt.Fprintln(out, "Raise the version of the policies that changed, and run actpass test.")
	}
	return nil
}

// patch writes the patch for where the command runs, else for below the
// configuration file.
func (q *review) patch(out io.Writer, c *changes) error {
	dir := "."
	text, err := c.patch(dir)
	if err != nil {
		dir = q.cfg.Dir
		if text, err = c.patch(dir); err != nil {
			return finding("the policy files stand in several places, which one patch cannot name: use --write")
		}
	}
	if q.out == "" {
		fmt.Fprintln(out)
		_, err := io.WriteString(out, text)
		return err
	}
	if err := os.WriteFile(q.out, []byte(text), 0o644); err != nil {
		return usage("write the patch: %v", err)
	}
	in := ""
	if dir != "." {
		in = " -d " + plain(dir)
	}
	fmt.Fprintf(out, "Wrote %s: patch%s -p1 < %s\n", plain(q.out), in, plain(q.out))
	return nil
}

// below names files as a patch does that is applied in dir.
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
func fixtureName(w *whatif.Walk, text string) string {
	sum := sha256.Sum256([]byte(text))
	first := w.Rules().Policy.Sources()[0].Name
	if d := w.Drafts(); len(d) > 0 {
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
