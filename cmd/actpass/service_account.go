package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/actpass/sidecar/workload"
)

// account is who this pod is to the cluster. A pod keeps its service account for its
// life, so what was proved at the start holds until the end; tokens that come after
// the first are looked at so that a wrong one is told of.
type account struct {
	agent    string // "": identity.agent_id says who calls
	verifier *workload.Verifier
	path     string
	seen     seenFile
}

// accountWait is how long a start waits for the issuer's keys.
const accountWait = 25 * time.Second

// openAccount proves who calls, before anything is judged: without the proof there is
// no start.
func (p *program) openAccount(ctx context.Context) error {
	s := p.cfg.Identity.ServiceAccount
	if s.TokenFile == "" || p.role == control {
		return nil
	}
	keys := workload.FileKeys(p.cfg.Path(s.JWKSFile))
	if s.JWKSURL != "" {
		var err error
		if keys, err = workload.URLKeys(s.JWKSURL, p.cfg.Path(s.CAFile), p.cfg.Path(s.BearerFile)); err != nil {
			return fmt.Errorf("identity.service_account: %w", err)
		}
	}
	a := &p.account
	a.path, a.verifier = p.cfg.Path(s.TokenFile), &workload.Verifier{Issuer: s.Issuer, Audience: s.Audience, Keys: keys}
	a.seen.changed(a.path)
	for end := time.Now().Add(accountWait); ; {
		who, err := a.read(ctx)
		if err == nil {
			a.agent = who.AgentID()
			p.log.Info("the service account's token says who the agent is", zap.String("agent_id", a.agent), zap.Time("expires", who.Expires))
			return nil
		}
		if !errors.Is(err, workload.ErrUnreachable) || time.Now().After(end) {
			return fmt.Errorf("identity.service_account: %w", err)
		}
		p.log.Warn("waiting for the keys of the service account's issuer", zap.Error(err))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

func (a *account) read(ctx context.Context) (workload.Account, error) {
	token, err := os.ReadFile(a.path)
	if err != nil {
		return workload.Account{}, err
	}
	return a.verifier.Verify(ctx, strings.TrimSpace(string(token)), time.Now())
}

// tendAccount looks at a token that has changed.
func (p *program) tendAccount(ctx context.Context) {
	a := &p.account
	if a.verifier == nil || !a.seen.changed(a.path) {
		return
	}
	who, err := a.read(ctx)
	if err == nil && who.AgentID() != a.agent {
		err = fmt.Errorf("the new token is of %s: restart the sidecar if that is meant", who.AgentID())
	}
	if err != nil {
		p.fault(ctx, "identity", fmt.Errorf("the agent stays %s: %w", a.agent, err))
		return
	}
	p.log.Info("the service account's token was renewed", zap.Time("expires", who.Expires))
}
