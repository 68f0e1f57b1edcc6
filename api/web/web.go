// Package web is the dashboard: pages under /ui/ that are rendered here and
// kept live by a few lines of script. It has no rights and no data of its own.
// Whoever signs in does so with an API key, and each page asks the API, in this
// process, with that key: what the API would refuse, the dashboard cannot show.
//
// Pages work without script. With it, a stream (Server-Sent Events) says that
// something changed, and the page fetches itself again.
package web

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

//go:embed templates static
var files embed.FS

// Gate is what the dashboard asks of the gate itself; the rest goes through the
// API. *gate.Gate satisfies it.
type Gate interface {
	Authenticate(ctx context.Context, secret, agent string) (gate.Identity, error)
	Rules() *gate.Rules
}

// Evidence is the log, for proofs and to notice that something happened.
type Evidence interface {
	// Size is the number of records; it grows with everything that happens.
	Size() uint64
	// Proof shows that a record is in its log, and gives the log's verifier key, note
	// format. origin names the log where there are several, as an event does.
	Proof(ctx context.Context, origin string, index uint64) (proof evidence.Proof, key string, err error)
}

// Addresses are what an agent is pointed at; "" for a door that is closed.
type Addresses struct {
	Proxy, Reverse, API string
	CAFile              string
}

// Options of New. API, Gate and Evidence must be set.
type Options struct {
	API      http.Handler // of the API, see api.New
	Gate     Gate
	Evidence Evidence
	// Hosts gives further host names under which a browser may ask; loopback names
	// and IP addresses always may. Nil: none.
	Hosts     func() []string
	Addresses func() Addresses // nil: not known
	Logger    *zap.Logger      // nil: no log
	Version   string
	Now       func() time.Time // nil: time.Now
}

// Dashboard serves /ui/.
type Dashboard struct {
	Options
	mux      http.Handler
	sessions *sessions
	signIns  *attempts
	streams  streams
	judgings judgings
	pages    func() (map[string]pageTemplate, error)
	assets   func() (map[string]asset, error)
	closed   chan struct{}
	close    sync.Once
}

// New makes the dashboard. Close ends its streams.
func New(o Options) *Dashboard {
	if o.API == nil || o.Gate == nil || o.Evidence == nil {
		panic("web: New needs the API, a Gate and the Evidence")
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Hosts == nil {
		o.Hosts = func() []string { return nil }
	}
	if o.Addresses == nil {
		o.Addresses = func() Addresses { return Addresses{} }
	}
	d := &Dashboard{Options: o, sessions: newSessions(), signIns: newAttempts(), closed: make(chan struct{})}
	// Not at start: a sidecar must be ready soon, and most never show a page.
	d.assets = sync.OnceValues(loadAssets)
	d.pages = sync.OnceValues(func() (map[string]pageTemplate, error) { return loadPages(d.assets) })
	d.mux = d.routes()
	return d
}

// Close ends all streams, so that a server can shut down.
func (d *Dashboard) Close() { d.close.Do(func() { close(d.closed) }) }

// action answers one request of somebody who is signed in.
type action func(w http.ResponseWriter, r *http.Request, v *visit) error

// row is one page or form. Without roles nobody reaches it; the roles are those
// of the API's call behind it.
type row struct {
	method, pattern string
	roles           []string
	do              action
}

var (
	forHumans = []string{gate.RoleApprover, gate.RoleAdmin}
	forAdmins = []string{gate.RoleAdmin}
	forAll    = []string{gate.RoleGateway, gate.RoleApprover, gate.RoleAdmin}
)

func (d *Dashboard) table() []row {
	return []row{
		{"GET", "/ui/{$}", forAll, d.home},
		{"GET", "/ui/overview", forHumans, d.overview},
		{"GET", "/ui/events", forHumans, d.eventList},
		{"GET", "/ui/events/{id}", forHumans, d.eventDetail},
		{"POST", "/ui/events/{id}/verify", forHumans, d.eventVerify},
		{"GET", "/ui/approvals", forAll, d.approvalList},
		{"GET", "/ui/approvals/{id}", forAll, d.approvalDetail},
		{"POST", "/ui/approvals/{id}/decide", forHumans, d.approvalDecide},
		{"GET", "/ui/approvals/{id}/grant", forHumans, d.grantNew},
		{"POST", "/ui/approvals/{id}/grant", forHumans, d.grantMake},
		{"POST", "/ui/grants/{id}/revoke", forHumans, d.grantRevoke},
		{"GET", "/ui/policies", forHumans, d.policies},
		{"GET", "/ui/policies/suggested.yaml", forHumans, d.suggested},
		{"GET", "/ui/try", forHumans, d.tryShow},
		{"POST", "/ui/try", forHumans, d.try},
		{"GET", "/ui/keys", forAdmins, d.keyList},
		{"POST", "/ui/keys", forAdmins, d.keyCreate},
		{"POST", "/ui/keys/{id}/revoke", forAdmins, d.keyRevoke},
		{"GET", "/ui/passports", forHumans, d.passportList},
		{"POST", "/ui/passports", forHumans, d.passportIssue},
		{"POST", "/ui/passports/revoke", forAdmins, d.passportRevoke},
		{"GET", "/ui/review", forHumans, d.review},
		{"GET", "/ui/review/patch", forHumans, d.reviewPatch},
		{"GET", "/ui/readiness", forHumans, d.readiness},
		{"GET", "/ui/modes/new", forAdmins, d.modeNew},
		{"POST", "/ui/modes", forAdmins, d.modeSet},
		{"POST", "/ui/modes/{id}/clear", forAdmins, d.modeClear},
		{"GET", "/ui/stream", forAll, d.stream},
		{"POST", "/ui/signout", forAll, d.signOut},
	}
}

func (d *Dashboard) routes() http.Handler {
	mux := http.NewServeMux()
	for _, rt := range d.table() {
		mux.HandleFunc(rt.method+" "+rt.pattern, func(w http.ResponseWriter, r *http.Request) {
			v, err := d.visit(w, r)
			if err == nil && v == nil {
				return // led to the sign-in
			}
			if err == nil && !slices.Contains(rt.roles, v.who.Role) {
				err = &api.Error{Status: http.StatusForbidden, Code: "forbidden", Message: "This page needs another role; the key that you signed in with has the role " + v.who.Role + "."}
			}
			if err == nil && r.Method == http.MethodPost {
				err = d.checkForm(w, r, v)
			}
			if err == nil {
				err = rt.do(w, r, v)
			}
			if err != nil {
				d.fail(w, r, v, err)
			}
		})
	}
	mux.HandleFunc("GET /ui/signin", d.signInPage)
	mux.HandleFunc("POST /ui/signin", d.signIn)
	mux.HandleFunc("GET /ui/static/{name}", d.static)
	mux.HandleFunc("/ui/", func(w http.ResponseWriter, r *http.Request) {
		v, err := d.visit(w, r)
		if err == nil && v == nil {
			return
		}
		if err == nil {
			err = &api.Error{Status: http.StatusNotFound, Code: "not_found", Message: "There is no such page."}
		}
		d.fail(w, r, v, err)
	})
	return mux
}

const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// ServeHTTP serves /ui/ and leads / there.
func (d *Dashboard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	started := time.Now()
	h := w.Header()
	h.Set("Content-Security-Policy", contentPolicy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	sw := &statusWriter{ResponseWriter: w}
	defer func() {
		if p := recover(); p != nil {
			d.Logger.Error("dashboard panicked", zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
			if sw.status != 0 {
				panic(http.ErrAbortHandler)
			}
			http.Error(sw, "the sidecar failed at this page; its log says why", http.StatusInternalServerError)
		}
		d.Logger.Debug("dashboard", zap.String("method", r.Method), zap.String("path", r.URL.Path), zap.Int("status", sw.status), zap.Duration("took", time.Since(started)))
	}()
	switch {
	case !d.hostAllowed(r.Host):
		http.Error(sw, "the dashboard is not served under this host name; add it to dashboard.hosts", http.StatusMisdirectedRequest)
	case r.Method == http.MethodPost && !sameOrigin(r):
		http.Error(sw, "this form was sent by another site", http.StatusForbidden)
	case r.URL.Path == "/" || r.URL.Path == "/ui":
		http.Redirect(sw, r, "/ui/", http.StatusSeeOther)
	case path.Clean(r.URL.Path) != r.URL.Path && r.URL.Path != "/ui/":
		http.Error(sw, "there is no such page", http.StatusNotFound)
	default:
		d.mux.ServeHTTP(sw, r)
	}
}

// fail shows what went wrong as a page. A key that no longer holds ends the
// session.
func (d *Dashboard) fail(w http.ResponseWriter, r *http.Request, v *visit, err error) {
	if r.Context().Err() != nil {
		return
	}
	var e *api.Error
	if !errors.As(err, &e) {
		d.Logger.Error("dashboard page failed", zap.String("path", r.URL.Path), zap.Error(err))
		e = &api.Error{Status: http.StatusInternalServerError, Code: "internal", Message: "The sidecar failed at this page; its log says why."}
	}
	if e.Status == http.StatusUnauthorized && v != nil {
		d.sessions.drop(v.id)
		d.toSignIn(w, r)
		return
	}
	p := &page{Title: http.StatusText(e.Status), Body: problem{Status: e.Status, Message: sentence(e)}}
	p.fill(d, r, v)
	d.render(w, r, e.Status, "problem", p)
}

type problem struct {
	Status  int
	Message string
}

// sentence is an error of the API as a sentence.
func sentence(e *api.Error) string {
	s := e.Error()
	if s == "" {
		return "Something went wrong."
	}
	if c := s[0]; c >= 'a' && c <= 'z' && e.Field == "" {
		s = string(c-'a'+'A') + s[1:]
	}
	if last := s[len(s)-1]; last != '.' && last != '!' && last != '?' {
		s += "."
	}
	return s
}

// home is the first page that a role can see.
func (d *Dashboard) home(w http.ResponseWriter, r *http.Request, v *visit) error {
	to := "/ui/overview"
	if v.who.Role == gate.RoleGateway {
		to = "/ui/approvals"
	}
	http.Redirect(w, r, to, http.StatusSeeOther)
	return nil
}

type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// with is the address of the page with some parameters changed; "" removes one.
func with(u *url.URL, pairs ...string) string {
	q := u.Query()
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] == "" {
			q.Del(pairs[i])
		} else {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	if enc := q.Encode(); enc != "" {
		return u.Path + "?" + enc
	}
	return u.Path
}

func notFound(what string) error {
	return &api.Error{Status: http.StatusNotFound, Code: "not_found", Message: fmt.Sprintf("There is no such %s.", what)}
}

// Serves says whether a request is for the dashboard and not for the API.
func Serves(r *http.Request) bool {
	p := r.URL.Path
	return p == "/ui" || strings.HasPrefix(p, "/ui/") || p == "/" && (r.Method == http.MethodGet || r.Method == http.MethodHead)
}
