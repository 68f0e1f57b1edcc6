package gate

import (
	"context"

	"github.com/actpass/sidecar/evidence"
)

// RecordDoctor puts on record what a workload found when it tried to get round the
// sidecar: its verdict, and one text for each path. All of it is the actor's word.
func (g *Gate) RecordDoctor(ctx context.Context, actor Identity, verdict string, paths map[string]string) (eventID string, err error) {
	data := map[string]string{"verdict": clip(verdict)}
	for path, text := range paths {
		data["path."+clipTo(path, 32)] = clip(text)
	}
	return g.noted(ctx, actor, evidence.KindDoctor, "doctor: "+clip(verdict), data)
}
