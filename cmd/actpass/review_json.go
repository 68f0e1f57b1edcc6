package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/config"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/whatif"
)

// readAnswers reads GROUP=WORD, each group once.
func readAnswers(list []string) ([]whatif.Answer, error) {
	var out []whatif.Answer
	seen := make(map[string]bool)
	for _, text := range list {
		group, word, _ := strings.Cut(text, "=")
		switch word {
		case whatif.AnswerAccept, whatif.AnswerBlocked, whatif.AnswerIgnore:
		default:
			return nil, usage("--answer %q: must be GROUP=accept, GROUP=blocked or GROUP=ignore, where GROUP is the id that --json shows", text)
		}
		if group == "" || seen[group] {
			return nil, usage("--answer %q: each group is named once, by the id that --json shows", text)
		}
		seen[group] = true
		out = append(out, whatif.Answer{Group: group, Answer: word})
	}
	if len(out) > whatif.MaxAnswers {
		return nil, usage("--answer: at most %d at a time", whatif.MaxAnswers)
	}
	return out, nil
}

// report is the review for programs: what is stopped, and what the answers make of
// it. Like simulate, it asks the running sidecar where there is a key for it and
// nothing else is named, else the log.
func (q *review) report(ctx context.Context, cmd *cobra.Command, answers []whatif.Answer, limit int) (whatif.ReviewReport, error) {
	if err := q.period(time.Now()); err != nil {
		return whatif.ReviewReport{}, err
	}
	if os.Getenv(envAPIKey) != "" && q.dataDir == "" && len(q.policies) == 0 {
		client, err := newClient(cmd)
		if err != nil {
			return whatif.ReviewReport{}, err
		}
		ask := api.NewReview{Mode: q.mode, Since: moment(q.from), Until: moment(q.to), Tool: q.tool, AgentID: q.agent, Answers: answers, Limit: limit}
		if q.from.IsZero() {
			ask.Since = moment(time.Unix(0, 0)) // all there is
		}
		r, err := client.Review(ctx, ask)
		return r, explained(err)
	}
	if err := q.begin(cmd); err != nil {
		return whatif.ReviewReport{}, err
	}
	r, err := q.walk.Retrace(answers, limit, func(rules *gate.Rules) (*whatif.Review, error) {
		sim, err := whatif.NewReview(whatif.Options{
			Rules: rules, InForce: q.inForce, Since: q.from, Until: q.to, Tool: q.tool, Agent: q.agent, Limit: limit,
		})
		if err == nil {
			err = replayDir(ctx, q.cfg, q.dataDir, sim)
		}
		return sim, err
	})
	if err != nil {
		return r, err
	}
	addPatch(&r, q.walk, q.cfg, q.embedded, q.fixtures)
	return r, nil
}

// addPatch puts the patch of a review into its report, or why there is none.
func addPatch(r *whatif.ReviewReport, walk *whatif.Walk, cfg *config.Config, embedded bool, fixtures string) {
	c, err := changesOf(walk, embedded, fixtures)
	if err == nil {
		r.Notes = append(r.Notes, c.notes...)
		if r.PatchDir, err = filepath.Abs(cfg.Dir); err == nil {
			r.Patch, err = c.patch(r.PatchDir)
		}
		if err == errAway { // the files stand in several places
			r.PatchDir = string(filepath.Separator)
			r.Patch, err = c.patch(r.PatchDir)
		}
	}
	if err != nil {
		r.Problem = err.Error()
	}
	if r.Patch == "" {
		r.PatchDir = ""
	}
}

// period reads --since and --until.
func (q *review) period(now time.Time) (err error) {
	if q.from, err = api.When(q.since, now); err != nil {
		return usage("--since: %v", err)
	}
	if q.to, err = api.When(q.until, now); err != nil {
		return usage("--until: %v", err)
	}
	if !q.to.IsZero() && !q.from.Before(q.to) {
		return usage("--until must be later than --since")
	}
	return nil
}

// checkJSON refuses what says nothing together.
func (q *review) checkJSON(asJSON bool, answers []string, limit int) error {
	switch {
	case asJSON && (q.write || q.out != ""):
		return usage("--json prints the patch: leave out --write and --out")
	case !asJSON && len(answers) > 0:
		return usage("--answer belongs to --json")
	}
	return checkLimit(limit, api.MaxLimit)
}
