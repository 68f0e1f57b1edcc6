package main

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/actpass/sidecar/strictyaml"
)

func newCheckCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check configuration, mapping and policies; report everything that is wrong at once",
		Long: `Reads the configuration, the mapping packs and files and the policies as serve
would, and reports every fault as file:line:col: what is wrong, and what to write
instead. Rules that do less than they seem to, as gRPC rules whose messages cannot be
judged, are warnings. Exit code 0: all fine, or warnings; 1: faults.`,
		Example: "  actpass check --config config.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			err := check(cmd, asJSON)
			var faults strictyaml.Faults
			if !errors.As(err, &faults) {
				return err
			}
			if asJSON {
				if err := json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"ok": false, "faults": places(faults)}); err != nil {
					return err
				}
				return &exitError{code: exitFinding}
			}
			for _, f := range faults {
				fmt.Fprintln(cmd.OutOrStdout(), f.Error())
			}
			return finding("%d %s found", len(faults), plural(len(faults), "fault", "faults"))
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	addSettingFlags(cmd)
	return cmd
}

// place is one fault or warning in JSON.
type place struct {
	File    string `json:"file"`
	Line    int    `json:"line,omitempty"`
	Col     int    `json:"col,omitempty"`
	Message string `json:"message"`
}

func places(faults strictyaml.Faults) []place {
	list := make([]place, len(faults))
	for i, f := range faults {
		list[i] = place{f.File, f.Line, f.Col, f.Message}
	}
	return list
}

func check(cmd *cobra.Command, asJSON bool) error {
	cfg, compiled, err := loadAll(cmd)
	if err == nil {
		err = cfg.CheckSecrets()
	}
	if err != nil {
		return err
	}
	name := cfg.File
	if name == "" {
		name = "embedded defaults"
	}
	warnings := compiled.Mapping.Warnings()
	if asJSON {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{
			"warnings": places(warnings), "ok": true, "config": name, "mode": cfg.Mode, "mapping_rules": compiled.Mapping.Len(),
			"policies": len(compiled.Policy.Policies()), "mapping_hash": compiled.Mapping.Hash(), "policy_hash": compiled.Policy.Hash(),
		})
	}
	for _, w := range warnings {
		fmt.Fprintf(cmd.OutOrStdout(), "warning: %s\n", w.Error())
	}
	fmt.Fprintf(cmd.OutOrStdout(), "ok: %s, mode %s, %d mapping rules, %d %s\n", name, cfg.Mode, compiled.Mapping.Len(),
		len(compiled.Policy.Policies()), plural(len(compiled.Policy.Policies()), "policy", "policies"))
	return nil
}

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}
