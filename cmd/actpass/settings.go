package main

import (
	"cmp"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	sidecar "github.com/actpass/sidecar"
	"github.com/actpass/sidecar/config"
)

// addSettingFlags gives a command a flag for every setting that one line of
// text can hold: --mode, --listen.proxy, --limits.hold ...
//
// They are also known as the environment spells them, with dashes: --data-dir,
// --listen-proxy.
func addSettingFlags(cmd *cobra.Command) {
	cmd.Flags().SetNormalizeFunc(spelling())
	for _, key := range config.Keys() {
		if cmd.Flags().Lookup(key) == nil {
			cmd.Flags().String(key, "", "overrides `"+key+"` of the configuration")
		}
	}
	hideSettings(cmd.Flags())
}

// spelling finds a setting by a name with other separators than its own.
func spelling() func(*pflag.FlagSet, string) pflag.NormalizedName {
	dashes := strings.NewReplacer(".", "-", "_", "-")
	settings := make(map[string]string)
	for _, key := range config.Keys() {
		settings[dashes.Replace(key)] = key
	}
	return func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		return pflag.NormalizedName(cmp.Or(settings[dashes.Replace(name)], name))
	}
}

// hideSettings keeps help short: the common ones are shown, the rest is in
// config.example.yaml.
func hideSettings(flags *pflag.FlagSet) {
	shown := map[string]bool{"mode": true, "data_dir": true, "listen.proxy": true, "listen.reverse": true, "listen.api": true, "log.level": true}
	for _, key := range config.Keys() {
		if !shown[key] {
			_ = flags.MarkHidden(key)
		}
	}
}

// loadConfig reads the settings as the command line, the environment and the
// file give them.
func loadConfig(cmd *cobra.Command) (*config.Config, error) {
	src, err := sourceOf(cmd)
	if err != nil {
		return nil, err
	}
	return config.Load(src)
}

// loadAll reads the settings and the files that they name.
func loadAll(cmd *cobra.Command) (*config.Config, *config.Compiled, error) {
	src, err := sourceOf(cmd)
	if err != nil {
		return nil, nil, err
	}
	return config.LoadAll(src, sidecar.ExamplePolicies)
}

func sourceOf(cmd *cobra.Command) (config.Source, error) {
	given, err := cmd.Flags().GetString("config")
	return config.Source{
		File: config.Find(given), Embedded: sidecar.ExampleConfig, Flags: cmd.Flags(), Environ: os.Environ(),
	}, err
}
