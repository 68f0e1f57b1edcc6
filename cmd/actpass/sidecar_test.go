package main

import (
	"testing"

	"github.com/actpass/sidecar/config"
)

// TestRulesTakeTheConfiguredBounds: a bound that is configured and not handed on
// would hold nothing.
func TestRulesTakeTheConfiguredBounds(t *testing.T) {
	cfg := config.Default()
	cfg.Limits.MaxHolds, cfg.Limits.MaxHoldsPerAgent = 7, 3
	if r := rulesOf(cfg, &config.Compiled{}); r.MaxHolds != 7 || r.MaxHoldsPerAgent != 3 {
		t.Errorf("%d in total, %d of an agent", r.MaxHolds, r.MaxHoldsPerAgent)
	}
}
