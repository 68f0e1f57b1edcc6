package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/api/web"
	"github.com/actpass/sidecar/config"
	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/ledger"
	"github.com/actpass/sidecar/notify"
	"github.com/actpass/sidecar/proxy"
	"github.com/actpass/sidecar/store"
)

// program is a whole sidecar as a value: what serve and run start.
type program struct {
	role role
	cfg  *config.Config
	// load reads the settings and their files again; nil: no reload.
	load    func() (*config.Config, *config.Compiled, error)
	log     *zap.Logger
	dir     string
	lock    sync.Mutex // one reload at a time
	metrics *metrics

	store state
	// storeBack holds a word when a shared database answers again.
	storeBack chan struct{}
	trail     *ledger.Log
	index     *store.Index
	shipper   *store.Shipper   // of the log into a shared database; nil: it stays here
	shared    *store.SharedLog // that the index follows, and not trail; nil: it does not
	gate      *gate.Gate
	ca        atomic.Pointer[proxy.CA]
	caSeen    [2]seenFile            // certificate and key, as last read
	trust     atomic.Pointer[string] // directory that others read it in; nil or "": none
	proxy     *proxy.Server
	notifier  *notify.Notifier
	api       *http.Server
	pages     *web.Dashboard

	modesKept []byte    // as modes.json holds them
	fleet     *fleet    // what sidecars share beside the database; nil: nothing
	account   account   // of Kubernetes that this pod is
	authority authority // of passports; after start only watchFiles touches it

	addresses struct{ proxy, reverse, api, transparent string }
	listeners []net.Listener
	stop      context.CancelFunc
	wg        sync.WaitGroup
	failed    chan error
	current   *config.Config  // in force; guarded by lock
	channels  notify.Settings // likewise
}

// start brings everything up, in the order in which things depend on each
// other. On an error nothing stays open.
func start(ctx context.Context, as role, cfg *config.Config, compiled *config.Compiled, load func() (*config.Config, *config.Compiled, error), log *zap.Logger) (p *program, err error) {
	p = &program{role: as, cfg: cfg, current: cfg, load: load, log: log, dir: cfg.Path(cfg.DataDir), metrics: newMetrics(), failed: make(chan error, 4), storeBack: make(chan struct{}, 1)}
	ctx, p.stop = context.WithCancel(ctx)
	opened := p // `return nil, err` takes p away before the deferred call
	defer func() {
		if err != nil {
			opened.close()
		}
	}()
	if err := p.openState(ctx); err != nil {
		return nil, err
	}
	if err := p.openAccount(ctx); err != nil {
		return nil, err
	}
	p.gate.Load(p.rulesOf(cfg, compiled))
	if err := p.recover(ctx); err != nil {
		return nil, err
	}
	if err := p.openFleet(ctx); err != nil {
		return nil, err
	}
	if err := p.openAuthority(); err != nil {
		return nil, err
	}
	ca, err := p.openCA(time.Now())
	if err != nil {
		return nil, err
	}
	p.ca.Store(ca)
	settings, err := settingsOf(cfg, compiled)
	if err != nil {
		return nil, err
	}
	if p.proxy, err = proxy.New(proxy.Options{
		Gate: p.gate, CA: ca, Logger: log, Settings: settings, Registerer: p.metrics.registry,
		DialTimeout: cfg.Upstream.ConnectTimeout.D(), ResponseHeaderTimeout: cfg.Upstream.ResponseTimeout.D(),
	}); err != nil {
		return nil, err
	}
	if err := p.startNotify(ctx, cfg); err != nil {
		if err = p.without("telling the channels", err); err != nil {
			return nil, err
		}
	}
	if err := p.listen(ctx); err != nil {
		return nil, err
	}
	p.background(ctx, compiled)
	return p, nil
}

// openState opens what lives in the data directory.
func (p *program) openState(ctx context.Context) error {
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return fmt.Errorf("create data_dir: %w", err)
	}
	key, err := redactKey(p.cfg, p.dir)
	if err != nil {
		return err
	}
	if p.trail, err = ledger.Open(filepath.Join(p.dir, "ledger"), ledger.Options{Async: p.cfg.Evidence.Durability == "async"}); err != nil {
		return err
	}
	if p.store, err = openStore(ctx, p.cfg, p.storeChanged); err != nil {
		return err
	}
	if p.index, err = store.OpenIndex(filepath.Join(p.dir, "index.db")); err != nil {
		return err
	}
	p.shareEvidence()
	p.gate, err = gate.New(gate.Options{Store: p.store, Recorder: p.trail, RedactKey: key, Log: p.log, Observer: p.metrics})
	return err
}

// recover finishes what a crash left open, before any door opens.
func (p *program) recover(ctx context.Context) error {
	if r := p.trail.Recovered(); r.TruncatedBytes > 0 {
		p.log.Warn("the evidence log ended in an incomplete batch, which was never acknowledged; it was moved aside", zap.Int64("bytes", r.TruncatedBytes))
	}
	if err := p.countByStore(ctx); err != nil {
		if err = p.without("the clock that limits count by", err); err != nil {
			return err
		}
	}
	if err := p.loadModes(ctx); err != nil {
		return err
	}
	open := p.trail.Unfinished()
	if err := p.gate.MarkAmbiguous(ctx, open); err != nil {
		return fmt.Errorf("mark unfinished calls as ambiguous: %w", err)
	}
	if len(open) > 0 {
		p.log.Warn("calls were under way when the sidecar last stopped; their outcome is unknown", zap.Int("ambiguous", len(open)))
	}
	if err := p.importSpool(ctx); err != nil {
		return err
	}
	if err := p.recoverLimits(ctx); err != nil {
		if err = p.without("giving back what a crash took of limits", err); err != nil {
			return err
		}
	}
	if err := p.gate.RecordTransitions(ctx); err != nil {
		return p.without("recording the moves of approvals", err)
	}
	return nil
}

// secretFile reads 32 random bytes, made on first use.
func secretFile(path string) ([]byte, error) {
	key, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		key = randomBytes(32)
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, fmt.Errorf("create %s: %w", path, err)
		}
		_, err = f.Write(key)
		if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
			return nil, fmt.Errorf("write %s: %w", path, err)
		}
		return key, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if len(key) != 32 {
		return nil, fmt.Errorf("%s has %d bytes, not 32: restore it from a backup, or remove it to start with a new one", path, len(key))
	}
	return key, nil
}

func (p *program) rulesOf(cfg *config.Config, c *config.Compiled) *gate.Rules {
	r := rulesOf(cfg, c)
	if p.account.agent != "" {
		r.Identity.AgentID = p.account.agent
	}
	return r
}

func rulesOf(cfg *config.Config, c *config.Compiled) *gate.Rules {
	r := &gate.Rules{
		Mapping: c.Mapping, Policy: c.Policy, Mode: cfg.Mode,
		MaxInspect: int64(cfg.Limits.MaxInspectBytes), Hold: cfg.Limits.Hold.D(),
		MaxHolds: cfg.Limits.MaxHolds, MaxHoldsPerAgent: cfg.Limits.MaxHoldsPerAgent,
		Identity: gate.Identity{TenantID: cfg.Identity.TenantID, AgentID: cfg.Identity.AgentID, Source: gate.SourceConfig},
	}
	for _, o := range cfg.ModeOverrides {
		r.Overrides = append(r.Overrides, gate.Override(o))
	}
	return r
}

func settingsOf(cfg *config.Config, c *config.Compiled) (proxy.Settings, error) {
	s := proxy.Settings{
		Intercept: proxy.Intercept{Scope: cfg.Intercept.Scope, Passthrough: cfg.Intercept.Passthrough, Maps: c.Mapping.MapsHost},
	}
	for _, r := range cfg.Routes {
		u, err := url.Parse(r.Upstream)
		if err != nil {
			return s, fmt.Errorf("route %s: %w", r.Name, err)
		}
		s.Routes = append(s.Routes, proxy.Route{Name: r.Name, Upstream: u})
	}
	for _, ct := range cfg.Upstream.ConnectTo {
		s.Upstream.ConnectTo = append(s.Upstream.ConnectTo, proxy.ConnectTo{Host: ct.Host, Port: ct.Port, Address: ct.Address})
	}
	var err error
	s.Upstream.Mark = uint32(cfg.Upstream.Mark)
	if s.Upstream.AllowPrivate, err = cfg.Upstream.Prefixes(); err != nil {
		return s, err
	}
	if cfg.Upstream.CAFile == "" {
		return s, nil
	}
	file := cfg.Path(cfg.Upstream.CAFile)
	pem, err := os.ReadFile(file)
	if err != nil {
		return s, fmt.Errorf("upstream.ca_file: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return s, fmt.Errorf("upstream.ca_file: %s holds no certificate in PEM form", file)
	}
	s.Upstream.RootCAs = pool
	return s, nil
}

// listen opens the doors.
func (p *program) listen(ctx context.Context) error {
	open := func(name, address string, serve func(net.Listener) error) (string, error) {
		if config.Off(address) {
			return "", nil
		}
		var lc net.ListenConfig
		ln, err := lc.Listen(ctx, "tcp", address)
		if err != nil {
			return "", fmt.Errorf("open listen.%s on %s: %w: is another sidecar running? choose another address", name, address, err)
		}
		p.listeners = append(p.listeners, ln)
		p.wg.Go(func() {
			if err := serve(ln); err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
				p.failed <- fmt.Errorf("listen.%s: %w", name, err)
			}
		})
		return ln.Addr().String(), nil
	}
	p.api = api.NewServer(p.apiHandler())
	p.api.RegisterOnShutdown(p.pages.Close)
	var err error
	if p.addresses.api, err = open("api", p.cfg.Listen.API, p.api.Serve); err != nil {
		return err
	}
	if p.addresses.reverse, err = open("reverse", p.cfg.Listen.Reverse, p.proxy.ServeReverse); err != nil {
		return err
	}
	if p.addresses.proxy, err = open("proxy", p.cfg.Listen.Proxy, p.proxy.ServeFront); err != nil {
		return err
	}
	return p.listenTransparent(open)
}

func (p *program) apiHandler() http.Handler {
	h := api.New(api.Options{
		Gate: p.gate, Logger: p.log,
		Events:   p.events(),
		Channels: p.notifier, Ready: p.ready, Metrics: p.metrics.handler(), Version: version, Rate: p.cfg.Limits.APIRate,
	})
	open := p.metrics.handler()
	p.pages = web.New(p.dashboard(h))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A scraper on this machine needs no key; any other shows one, as everywhere.
		if r.URL.Path == "/metrics" && r.Method == http.MethodGet && local(r) {
			open.ServeHTTP(w, r)
			return
		}
		if web.Serves(r) {
			p.pages.ServeHTTP(w, r)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// ready checks what a call needs: a place to record, the store, the CA, doors.
func (p *program) ready() []api.Check {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	var ca error
	if time.Now().After(p.ca.Load().Certificate().NotAfter) {
		ca = errors.New("the certificate authority has expired")
	}
	var doors error
	for _, ln := range p.listeners {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", ln.Addr().String())
		if err != nil {
			doors = err
			continue
		}
		_ = c.Close()
	}
	checks := []api.Check{
		{Name: "evidence", Err: p.trail.Err()},
		{Name: "store", Err: p.store.Ping(ctx)},
		{Name: "ca", Err: ca},
		{Name: "doors", Err: doors},
	}
	if p.role == control { // it signs for nobody
		checks = slices.Delete(checks, 2, 3)
	}
	return checks
}

// background starts what runs beside the doors.
func (p *program) background(ctx context.Context, compiled *config.Compiled) {
	p.wg.Go(func() {
		if err := p.follow(ctx); err != nil && ctx.Err() == nil {
			p.gate.Fault("index", err)
		}
	})
	if p.shipper != nil {
		p.wg.Go(func() { p.shipper.Run(ctx) })
	}
	every := time.Second
	if p.cfg.Store.Driver == "postgres" { // the others look too
		every = sharedEvery
		p.wg.Go(func() { p.followShared(ctx) })
	}
	p.wg.Go(func() { p.gate.Tend(ctx, every) })
	p.wg.Go(func() { p.notifier.Run(ctx) })
	p.wg.Go(func() { p.prune(ctx) })
	p.wg.Go(releaseMemory) // not before the doors are open: a start must be quick
	p.wg.Go(func() { p.watchFiles(ctx) })
	if p.load != nil && p.cfg.File != "" {
		p.wg.Go(func() {
			err := config.Watch(ctx, func() ([]string, []string) { return p.inForce().Watched() }, func() { p.reload(ctx, "file change") })
			if err != nil {
				p.gate.Fault("reload", err)
			}
		})
	}
	err := p.gate.Note(ctx, evidence.KindSystem, "sidecar started", map[string]string{
		"role": p.role.String(), "version": version, "mode": p.cfg.Mode, "policy_hash": compiled.Policy.Hash(), "mapping_hash": compiled.Mapping.Hash(),
	})
	if err != nil {
		p.log.Warn("the start could not be put on record", zap.Error(err))
	}
}

func (p *program) inForce() *config.Config {
	p.lock.Lock()
	defer p.lock.Unlock()
	return p.current
}

// reload swaps everything or nothing. A bad file keeps the last good settings,
// says so loudly, and is recorded.
func (p *program) reload(ctx context.Context, why string) {
	p.lock.Lock()
	defer p.lock.Unlock()
	cfg, compiled, err := p.load()
	var settings proxy.Settings
	if err == nil {
		if key := cfg.NeedsRestart(p.current); key != "" {
			err = fmt.Errorf("`%s` cannot change while the sidecar runs: restart it, or put the old value back", key)
		}
	}
	if err == nil {
		settings, err = settingsOf(cfg, compiled)
	}
	var channels notify.Settings
	if err == nil {
		channels, err = channelsOf(cfg)
	}
	if err == nil {
		err = p.notifier.Load(ctx, channels)
	}
	if err == nil {
		if err = p.proxy.Reload(settings); err != nil {
			err = errors.Join(err, p.notifier.Load(ctx, p.channels))
		}
	}
	if err != nil {
		p.metrics.Fault("reload")
		p.log.Error("reload refused: the last good configuration stays in force", zap.String("because", why), zap.String("faults", err.Error()))
		p.note(ctx, "reload refused, the last good configuration stays in force", map[string]string{"because": why, "faults": clip(err.Error(), 2000)})
		return
	}
	p.gate.Load(p.rulesOf(cfg, compiled))
	p.current, p.channels = cfg, channels
	p.log.Info("configuration reloaded", zap.String("because", why), zap.String("mode", cfg.Mode), zap.String("policy_hash", compiled.Policy.Hash()))
	p.note(ctx, "configuration reloaded", map[string]string{
		"because": why, "mode": cfg.Mode, "policy_hash": compiled.Policy.Hash(), "mapping_hash": compiled.Mapping.Hash(),
	})
	p.wg.Go(releaseMemory)
}

func (p *program) note(ctx context.Context, message string, data map[string]string) {
	if err := p.gate.Note(ctx, evidence.KindConfig, message, data); err != nil {
		p.log.Warn("could not be put on record", zap.String("what", message), zap.Error(err))
	}
}

// shutdown drains the doors, waits for the outcomes, and closes.
func (p *program) shutdown(ctx context.Context) error {
	var errs []error
	if p.gate != nil {
		p.gate.Drain() // humans may take an hour
	}
	if p.proxy != nil {
		errs = append(errs, p.proxy.Shutdown(ctx))
	}
	if p.api != nil {
		errs = append(errs, p.api.Shutdown(ctx))
	}
	if p.gate != nil {
		if err := p.gate.Note(ctx, evidence.KindSystem, "sidecar stopped", nil); err != nil {
			errs = append(errs, err)
		}
	}
	p.shipLast(ctx)
	p.close()
	return errors.Join(errs...)
}

// close releases everything, in the opposite order of start.
func (p *program) close() {
	p.stop()
	for _, ln := range p.listeners {
		_ = ln.Close()
	}
	if p.api != nil {
		_ = p.api.Close()
	}
	if p.trail != nil {
		if err := p.trail.Close(); err != nil {
			p.log.Error("close the evidence log", zap.Error(err))
		}
	}
	p.wg.Wait()
	if p.index != nil {
		_ = p.index.Close()
	}
	if p.store != nil {
		_ = p.store.Close()
	}
}

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n] + "…"
}
