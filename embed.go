// Package sidecar holds what the binary carries, so that it runs with nothing
// but itself: the example configuration and the example policies.
package sidecar

import "embed"

// ExampleConfig is config.example.yaml: every setting, with its default.
//
//go:embed config.example.yaml
var ExampleConfig []byte

// ExamplePolicies holds policies/*.yaml and the fixtures that they are held to.
//
//go:embed policies/*.yaml policies/fixtures/*.yaml
var ExamplePolicies embed.FS
