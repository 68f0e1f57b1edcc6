package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/actpass/sidecar/mapping"
	"github.com/actpass/sidecar/mapping/openapi"
	"github.com/actpass/sidecar/strictyaml"
)

func newMappingCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "mapping",
		Short: "Draft mapping rules, and see what traffic has none",
		Long: `import drafts rules from an OpenAPI document and asks nobody. suggest and coverage
read the record of the running sidecar with the key in ` + envAPIKey + ` (role approver or
admin).`,
		Example: `  actpass mapping import --openapi openapi.yaml --name tickets --out mappings/tickets.yaml
  actpass mapping coverage --since 7d
  actpass mapping suggest --host tickets.example.com`,
		RunE: showHelp,
	}
	cmd.AddCommand(newMappingImportCmd(), newMappingSuggestCmd(), newMappingCoverageCmd())
	return cmd
}

// importReport is what import says with --json.
type importReport struct {
	File       string              `json:"file,omitempty"`
	Operations int                 `json:"operations"`
	Added      []openapi.Operation `json:"added"`
	Kept       int                 `json:"kept"`
	Gone       []openapi.Gone      `json:"gone"`
	Left       []openapi.Left      `json:"left"`
}

func newMappingImportCmd() *cobra.Command {
	var doc, host, name, out string
	var merge, asJSON bool
	cmd := &cobra.Command{
		Use:   "import",
		Short: "Draft a rule file from an OpenAPI 3.0 or 3.1 document",
		Long: `Writes one rule for each operation of the document: tool, risk, typed arguments
and resource. Names follow from the paths, risks are guesses: read them before
they are enforced. The same document gives the same file.

With --merge, what the file of --out has already stays as it is, byte for byte:
rules are the same when method and path are. Operations that it lacks are added
where they are reached; rules for operations that the document does not have are
reported and stay.`,
		Example: `  actpass mapping import --openapi spec3.json --host api.stripe.com --name stripe --out mappings/stripe.yaml
  actpass mapping import --openapi openapi.yaml --name tickets --out mappings/tickets.yaml --merge`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case doc == "" || name == "":
				return usage("give --openapi FILE and --name NAME (see `%s --help`)", cmd.CommandPath())
			case merge && out == "":
				return usage("--merge needs --out: the file to merge into")
			case asJSON && out == "":
				return usage("--json reports on the file of --out; without it, the rules go to standard output")
			}
			data, err := readDocument(doc)
			if err != nil {
				return err
			}
			notes := cmd.ErrOrStderr()
			pack, err := openapi.Read(data, openapi.Options{Name: name, Host: host, Progress: progress(notes)})
			if err != nil {
				return finding("%s: %s", doc, plain(err.Error()))
			}
			report := importReport{File: out, Operations: len(pack.Operations), Added: pack.Operations, Gone: []openapi.Gone{}, Left: append([]openapi.Left{}, pack.Left...)}
			text := pack.YAML()
			if merge {
				switch merged, err := mergeInto(out, pack); {
				case errors.Is(err, fs.ErrNotExist): // nothing to merge with: the first import
				case err != nil:
					return err
				default:
					text = merged.Data
					report.Added, report.Kept = append([]openapi.Operation{}, merged.Added...), merged.Kept
					report.Gone = append(report.Gone, merged.Gone...)
				}
			}
			if out == "" {
				if _, err := cmd.OutOrStdout().Write(text); err != nil {
					return err
				}
				showLeft(notes, report.Left)
				return nil
			}
			if err := writeRules(out, text, merge); err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), report)
			}
			showImport(cmd.OutOrStdout(), &report)
			showLeft(notes, report.Left)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&doc, "openapi", "", "the document, JSON or YAML; - is standard input")
	f.StringVar(&host, "host", "", "host of the API (else the document's first server)")
	f.StringVar(&name, "name", "", "name of the provider, the first part of every tool: stripe")
	f.StringVar(&out, "out", "", "file to write (else standard output); one that is there is only touched by --merge")
	f.BoolVar(&merge, "merge", false, "keep what the file of --out has, and add what it lacks")
	f.BoolVar(&asJSON, "json", false, "print a report as JSON")
	return cmd
}

func readDocument(name string) ([]byte, error) {
	in := io.Reader(os.Stdin)
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return nil, usage("read the document: %v", err)
		}
		defer file.Close()
		in = file
	}
	data, err := io.ReadAll(io.LimitReader(in, openapi.MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("read the document: %w", err)
	}
	return data, nil
}

// progress counts operations on a terminal, and says nothing anywhere else.
func progress(w io.Writer) func(done, total int) {
	file, ok := w.(*os.File)
	if !ok || !isTerminal(file) {
		return nil
	}
	last := time.Time{}
	return func(done, total int) {
		if done == total {
			fmt.Fprint(w, "\r\x1b[K")
			return
		}
		if now := time.Now(); now.Sub(last) > 50*time.Millisecond {
			last = now
			fmt.Fprintf(w, "\r\x1b[K%d of %d operations", done, total)
		}
	}
}

func mergeInto(name string, pack *openapi.Pack) (*openapi.Merged, error) {
	old, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read the file to merge into: %w", err)
	}
	merged, err := pack.Merge(mapping.Source{Name: name, Data: old})
	var faults strictyaml.Faults
	if errors.As(err, &faults) {
		return nil, finding("mend %s first:\n%s", name, faults.Error())
	}
	return merged, err
}

// writeRules puts the file in place whole or not at all. A file that is there is
// somebody's work: only over says that it is in data.
func writeRules(name string, data []byte, over bool) error {
	if old, err := os.ReadFile(name); err == nil && !over && string(old) != string(data) {
		return usage("%s is there already: add --merge to keep what it has, or remove it", name)
	}
	tmp, err := os.CreateTemp(filepath.Dir(name), ".actpass-*")
	if err != nil {
		return usage("write %s: %v", name, err)
	}
	defer os.Remove(tmp.Name()) // no more there after the rename
	mode := fs.FileMode(0o644)
	if info, err := os.Stat(name); err == nil {
		mode = info.Mode().Perm()
	}
	_, err = tmp.Write(data)
	err = errors.Join(err, tmp.Chmod(mode), tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), name)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

func showImport(out io.Writer, r *importReport) {
	fmt.Fprintf(out, "%s: %d %s, %d added, %d kept as they were\n", plain(r.File), r.Operations, plural(r.Operations, "operation", "operations"), len(r.Added), r.Kept)
	if r.Kept > 0 {
		for i := range r.Added {
			fmt.Fprintf(out, "added: %s\n", plain(r.Added[i].Method+" "+r.Added[i].Path+" as "+r.Added[i].Tool))
		}
	}
	for _, g := range r.Gone {
		fmt.Fprintf(out, "%s\n", plain(fmt.Sprintf("%s:%d: %s %s (%s) is not in the document", r.File, g.Line, g.Method, g.Path, g.Tool)))
	}
}

func showLeft(notes io.Writer, left []openapi.Left) {
	for _, l := range left {
		fmt.Fprintf(notes, "actpass: no rule for %s: %s\n", plain(l.What), plain(l.Why))
	}
}
