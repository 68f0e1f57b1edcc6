package timerslack

import (
	"strings"
	"testing"
)

func TestServes(t *testing.T) {
	for args, want := range map[string]bool{
		"":                        false,
		"serve":                   true,
		"--config c.yaml serve":   true,
		"serve --mode enforce":    true,
		"check":                   false,
		"run -- python3 serve":    false,
		"evidence tail --follow":  false,
		"run -- actpass serve":    false,
		"--config serve.yaml run": false,
	} {
		if got := serves(strings.Fields(args)); got != want {
			t.Errorf("%q: %v", args, got)
		}
	}
}
