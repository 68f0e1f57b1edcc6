package main

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	sidecar "github.com/actpass/sidecar"
	"github.com/actpass/sidecar/config"
	"github.com/actpass/sidecar/strictyaml"
	"github.com/actpass/sidecar/whatif"
)

func newTestCmd() *cobra.Command {
	var policies []string
	var junit string
	var coverage, asJSON bool
	cmd := &cobra.Command{
		Use:   "test [FILE...]",
		Short: "Hold the policies to fixtures: made-up actions and what is to be said of them",
		Long: `Judges the actions of fixture files by the policies of the configuration, or by
those of --policy, and compares. Without FILES it takes fixtures/*.yaml beside each
policy file. Nothing is sent and nothing recorded; limits are not counted.
Exit code 0: all as expected; 1: not; 2: the fixtures cannot be read.

actpass evidence show ID --as-fixture makes a fixture of an action on record.`,
		Example: `  actpass test
  actpass test --coverage policies/fixtures/refund_policy.yaml
  actpass test --policy 'new/*.yaml' --junit report.xml fixtures/*.yaml`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, rules, err := candidate(cmd, policies)
			if err != nil {
				return err
			}
			sources, err := fixtureSources(cfg, args, cfg.File == "" && len(policies) == 0)
			if err != nil {
				return err
			}
			fixtures, err := whatif.ReadFixtures(sources, time.Now())
			var faults strictyaml.Faults
			if errors.As(err, &faults) {
				for _, f := range faults {
					fmt.Fprintln(cmd.ErrOrStderr(), plain(f.Error()))
				}
				return usage("%d %s in the fixtures", len(faults), plural(len(faults), "fault", "faults"))
			}
			began := time.Now()
			results, covered, err := whatif.RunFixtures(rules, fixtures)
			if err != nil {
				return err
			}
			if junit != "" {
				if err := writeJUnit(junit, results, time.Since(began)); err != nil {
					return err
				}
			}
			failed := 0
			for i := range results {
				if !results[i].Passed {
					failed++
				}
			}
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), map[string]any{
					"passed": len(results) - failed, "failed": failed, "fixtures": results, "coverage": covered, "policy_hash": rules.Policy.Hash(),
				})
			} else {
				err = printResults(cmd.OutOrStdout(), results, failed, covered, coverage)
			}
			if err == nil && failed > 0 {
				return &exitError{code: exitFinding}
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&policies, "policy", nil, "policy `file` or glob to test instead of the configuration's; may be repeated")
	f.BoolVar(&coverage, "coverage", false, "name the rules that no fixture reached")
	f.StringVar(&junit, "junit", "", "also write the results to this `file`, in JUnit's XML")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// fixtureSources reads the files that are given, else those beside the policies:
// the embedded ones where the configuration and its policies are.
func fixtureSources(cfg *config.Config, args []string, embedded bool) ([]whatif.Source, error) {
	read, patterns := os.ReadFile, args
	var names []string
	var err error
	switch {
	case len(args) == 0 && embedded:
		read = sidecar.ExamplePolicies.ReadFile
		names, err = fs.Glob(sidecar.ExamplePolicies, "policies/fixtures/*.yaml")
	case len(args) == 0:
		for _, p := range cfg.Policy.Files {
			pattern := filepath.Join(filepath.Dir(cfg.Path(p)), "fixtures", "*.yaml")
			if found, err := filepath.Glob(pattern); err == nil && len(found) > 0 {
				patterns = append(patterns, pattern)
			}
		}
		if len(patterns) == 0 {
			return nil, usage("there are no fixtures beside the policies (fixtures/*.yaml): name the files")
		}
		names, err = filesOf(patterns)
	default:
		names, err = filesOf(args)
	}
	if err != nil {
		return nil, err
	}
	sources := make([]whatif.Source, len(names))
	for i, name := range names {
		data, err := read(name)
		if err != nil {
			return nil, usage("read the fixtures: %v", err)
		}
		sources[i] = whatif.Source{Name: name, Data: data}
	}
	return sources, nil
}

func printResults(out io.Writer, results []whatif.FixtureResult, failed int, covered whatif.Coverage, coverage bool) error {
	var b strings.Builder
	for i := range results {
		r := &results[i]
		word := "ok  "
		if !r.Passed {
			word = "FAIL"
		}
		fmt.Fprintf(&b, "%s  %s  (%s:%d)\n", word, plain(r.Name), plain(r.File), r.Line)
		if r.Passed {
			continue
		}
		for _, d := range r.Differences {
			fmt.Fprintf(&b, "      %s is %s, expected %s (line %d)\n", d.Field, orNone(d.Got), orNone(d.Want), d.Line)
		}
		fmt.Fprintf(&b, "      %s%s\n", plain(r.Summary), ruleAt(r))
	}
	if coverage {
		for _, m := range covered.Missed {
			fmt.Fprintf(&b, "not reached: %s of policy %s (%s:%d)\n", m.Rule, m.Policy, plain(m.File), m.Line)
		}
	}
	fmt.Fprintf(&b, "%d passed, %d failed; %d of %d rules reached\n", len(results)-failed, failed, covered.Reached, covered.Rules)
	_, err := io.WriteString(out, b.String())
	return err
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return plain(s)
}

func ruleAt(r *whatif.FixtureResult) string {
	if r.RuleFile == "" {
		return ""
	}
	return fmt.Sprintf(" Rule %s at %s:%d.", plain(r.Got.Rule), plain(r.RuleFile), r.RuleLine)
}

// The part of JUnit's report that CI servers read.
type (
	junitSuite struct {
		XMLName  xml.Name    `xml:"testsuite"`
		Name     string      `xml:"name,attr"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Time     string      `xml:"time,attr"`
		Cases    []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Name    string        `xml:"name,attr"`
		Class   string        `xml:"classname,attr"`
		File    string        `xml:"file,attr"`
		Line    int           `xml:"line,attr"`
		Failure *junitFailure `xml:"failure,omitempty"`
	}
	junitFailure struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
)

func writeJUnit(file string, results []whatif.FixtureResult, took time.Duration) error {
	suite := junitSuite{Name: "actpass policies", Tests: len(results), Time: fmt.Sprintf("%.3f", took.Seconds())}
	for i := range results {
		r := &results[i]
		c := junitCase{Name: r.Name, Class: filepath.Base(r.File), File: r.File, Line: r.Line}
		if !r.Passed {
			suite.Failures++
			var parts []string
			for _, d := range r.Differences {
				parts = append(parts, d.Field+" is "+orNone(d.Got)+", expected "+orNone(d.Want))
			}
			c.Failure = &junitFailure{Message: strings.Join(parts, "; "), Text: r.File + ":" + strconv.Itoa(r.Line) + ": " + r.Summary + ruleAt(r)}
		}
		suite.Cases = append(suite.Cases, c)
	}
	data, err := xml.MarshalIndent(suite, "", "  ")
	if err != nil {
		return fmt.Errorf("render the JUnit report: %w", err)
	}
	if err := os.WriteFile(file, append([]byte(xml.Header), append(data, '\n')...), 0o644); err != nil {
		return usage("write the JUnit report: %v", err)
	}
	return nil
}
