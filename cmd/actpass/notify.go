package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/config"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/notify"
)

// keepDead is store.keep as the notifier has it.
func keepDead(cfg *config.Config) time.Duration {
	if cfg.Store.Keep == 0 {
		return -1
	}
	return cfg.Store.Keep.D()
}

// startNotify makes the notifier and loads its channels. It delivers from
// background on, when the doors are open.
func (p *program) startNotify(ctx context.Context, cfg *config.Config) error {
	p.notifier = notify.New(notify.Options{
		Outbox: p.store, Gate: p.gate, Client: p.proxy.Client(), Log: p.log,
		Keep:   keepDead(cfg),
		Render: func(a gate.Approval) any { return api.ApprovalOf(a, time.Now()) },
	})
	settings, err := channelsOf(cfg)
	if err != nil {
		return err
	}
	p.channels = settings
	return p.notifier.Load(ctx, settings)
}

// channelsOf is the notify section with its secrets read.
func channelsOf(cfg *config.Config) (notify.Settings, error) {
	s := notify.Settings{Tenant: cfg.Identity.TenantID, MaxAttempts: cfg.Notify.MaxAttempts}
	// All faults at once first; a file that goes away in between is met below.
	if err := cfg.CheckSecrets(); err != nil {
		return s, err
	}
	for _, w := range cfg.Notify.Webhooks {
		secret, err := cfg.Secret(w.SecretFile, w.SecretEnv)
		if err != nil {
			return s, fmt.Errorf("secret of the webhook %s: %w", w.Name, err)
		}
		hook := notify.Webhook{Name: w.Name, URL: w.URL, Secret: secret, Events: w.Events, Actors: map[string]string{}}
		if len(hook.Events) == 0 {
			hook.Events = slices.Clone(notify.Events)
		}
		for _, a := range w.Actors {
			hook.Actors[a.Actor] = a.Key
		}
		s.Webhooks = append(s.Webhooks, hook)
	}
	c := cfg.Notify.Slack
	if c.Channel == "" {
		return s, nil
	}
	token, err := cfg.Secret(c.BotTokenFile, c.BotTokenEnv)
	if err != nil {
		return s, fmt.Errorf("notify.slack: bot token: %w", err)
	}
	signing, err := cfg.Secret(c.SigningSecretFile, c.SigningSecretEnv)
	if err != nil {
		return s, fmt.Errorf("notify.slack: signing secret: %w", err)
	}
	s.Slack = &notify.Slack{BotToken: token, SigningSecret: signing, Channel: c.Channel, APIURL: strings.TrimRight(c.APIURL, "/"), Actors: map[string]string{}}
	for _, a := range c.Actors {
		s.Slack.Actors[a.SlackUser] = a.Key
	}
	return s, nil
}
