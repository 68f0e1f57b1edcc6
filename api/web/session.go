package web

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/gate"
)

const (
	cookieName = "actpass_session"
	// signInCookie ties the sign-in form to the browser that fetched it, so that
	// nobody can be signed in as somebody else by another site.
	signInCookie = "actpass_signin"

	sessionLife = 12 * time.Hour // from the sign-in
	sessionIdle = 2 * time.Hour  // without a page; a stream is no page
	maxSessions = 1000
	maxForm     = 64 << 10 // bytes
)

// session is one sign-in. It lives in memory only and ends with the process.
// The key is kept because each page asks the API with it, which is what makes a
// revocation take effect at once.
type session struct {
	secret  string
	csrf    string
	created time.Time
	seen    time.Time
}

type sessionID [sha256.Size]byte

// sessions are looked up by the hash of the cookie, so that the time of a look-up
// says nothing about another's cookie.
type sessions struct {
	mu sync.Mutex
	m  map[sessionID]session
}

func newSessions() *sessions { return &sessions{m: map[sessionID]session{}} }

func (s *session) over(now time.Time) bool {
	return now.Sub(s.created) >= sessionLife || now.Sub(s.seen) >= sessionIdle || now.Before(s.created.Add(-time.Minute))
}

// add makes a session and gives the value of its cookie. The one that was unused
// for longest makes room.
func (s *sessions) add(secret string, now time.Time) string {
	cookie := random()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.m) >= maxSessions {
		var oldest sessionID
		first := true
		for id, one := range s.m {
			if one.over(now) {
				delete(s.m, id)
			} else if first || one.seen.Before(s.m[oldest].seen) {
				oldest, first = id, false
			}
		}
		if len(s.m) >= maxSessions {
			delete(s.m, oldest)
		}
	}
	s.m[sha256.Sum256([]byte(cookie))] = session{secret: secret, csrf: random(), created: now, seen: now}
	return cookie
}

// get finds a session that is not over; touch counts the look-up as use.
func (s *sessions) get(id sessionID, now time.Time, touch bool) (session, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	one, ok := s.m[id]
	if !ok {
		return session{}, false
	}
	if one.over(now) {
		delete(s.m, id)
		return session{}, false
	}
	if touch {
		one.seen = now
		s.m[id] = one
	}
	return one, true
}

func (s *sessions) drop(id sessionID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.m, id)
}

func random() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// visit is one request of somebody who is signed in.
type visit struct {
	session
	id  sessionID
	who gate.Identity
	api *api.Client // with the visitor's key
}

// visit finds who asks, by the session and by its key, which is looked up anew.
// Both results nil: the request was led to the sign-in.
func (d *Dashboard) visit(w http.ResponseWriter, r *http.Request) (*visit, error) {
	cookie, err := r.Cookie(cookieName)
	if err != nil {
		d.toSignIn(w, r)
		return nil, nil
	}
	id := sessionID(sha256.Sum256([]byte(cookie.Value)))
	// Pages that fetch themselves again do not keep a session alive for ever.
	s, ok := d.sessions.get(id, d.Now(), r.Header.Get(fragmentHeader) == "" && r.URL.Path != "/ui/stream")
	if !ok {
		d.toSignIn(w, r)
		return nil, nil
	}
	who, err := d.Gate.Authenticate(r.Context(), s.secret, "")
	switch {
	case err == nil:
	case errors.Is(err, gate.ErrNotAllowed), errors.Is(err, gate.ErrNotFound):
		d.sessions.drop(id)
		d.toSignIn(w, r)
		return nil, nil
	default:
		return nil, &api.Error{Status: http.StatusServiceUnavailable, Code: "store.unavailable", Message: "The store does not answer, so nobody can be recognised; try again, and see the sidecar's log for the cause."}
	}
	return &visit{session: s, id: id, who: who, api: d.client(r, s.secret)}, nil
}

// toSignIn leads to the sign-in, and back afterwards. A script gets a plain 401.
func (d *Dashboard) toSignIn(w http.ResponseWriter, r *http.Request) {
	d.setCookie(w, r, cookieName, "", -1)
	if r.Header.Get(fragmentHeader) != "" || r.URL.Path == "/ui/stream" {
		http.Error(w, "signed out", http.StatusUnauthorized)
		return
	}
	to := "/ui/signin"
	if r.Method == http.MethodGet && r.URL.Path != "/ui/" {
		to += "?to=" + url.QueryEscape(r.URL.RequestURI())
	}
	http.Redirect(w, r, to, http.StatusSeeOther)
}

func (d *Dashboard) setCookie(w http.ResponseWriter, r *http.Request, name, value string, maxAge int) {
	http.SetCookie(w, &http.Cookie{
		Name: name, Value: value, Path: "/ui/", MaxAge: maxAge, HttpOnly: true, SameSite: http.SameSiteStrictMode,
		// A proxy in front that ends TLS says so; were it a lie, it would only make
		// the cookie harder to use.
		Secure: r.TLS != nil || strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https"),
	})
}

// checkForm reads a form, bounded, and refuses one without the session's token.
func (d *Dashboard) checkForm(w http.ResponseWriter, r *http.Request, v *visit) error {
	if err := readForm(w, r); err != nil {
		return err
	}
	if subtle.ConstantTimeCompare([]byte(r.PostForm.Get("csrf")), []byte(v.csrf)) != 1 {
		return &api.Error{Status: http.StatusForbidden, Code: "forbidden", Message: "This form is out of date or was not made by this dashboard, so nothing was done. Open the page again."}
	}
	return nil
}

func readForm(w http.ResponseWriter, r *http.Request) error {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		return &api.Error{Status: http.StatusBadRequest, Code: "invalid_request", Message: "The form cannot be read, or is too large."}
	}
	return nil
}

type signInForm struct {
	To, Token, Problem string
	First              bool
}

func (d *Dashboard) signInPage(w http.ResponseWriter, r *http.Request) {
	d.showSignIn(w, r, http.StatusOK, signInForm{To: inside(r.URL.Query().Get("to"))})
}

func (d *Dashboard) showSignIn(w http.ResponseWriter, r *http.Request, status int, f signInForm) {
	if c, err := r.Cookie(signInCookie); err == nil && len(c.Value) == len(random()) {
		f.Token = c.Value
	} else {
		f.Token = random()
	}
	d.setCookie(w, r, signInCookie, f.Token, int(time.Hour/time.Second))
	f.Token = tokenFor(f.Token)
	d.render(w, r, status, "signin", &page{Title: "Sign in", Body: f})
}

// tokenFor is the form's token for a cookie: of no use to who sees only the form.
func tokenFor(cookie string) string {
	h := sha256.Sum256([]byte("sign-in form\x00" + cookie))
	return base64.RawURLEncoding.EncodeToString(h[:])
}

// signIn makes a session of a key.
func (d *Dashboard) signIn(w http.ResponseWriter, r *http.Request) {
	if err := readForm(w, r); err != nil {
		d.fail(w, r, nil, err)
		return
	}
	f := signInForm{To: inside(r.PostForm.Get("to"))}
	c, err := r.Cookie(signInCookie)
	if err != nil || subtle.ConstantTimeCompare([]byte(tokenFor(c.Value)), []byte(r.PostForm.Get("csrf"))) != 1 {
		f.Problem = "The form was out of date. Try again; this page needs cookies."
		d.showSignIn(w, r, http.StatusForbidden, f)
		return
	}
	secret := strings.TrimSpace(r.PostForm.Get("key"))
	_, err = d.Gate.Authenticate(r.Context(), secret, "")
	switch {
	case err == nil:
		d.setCookie(w, r, cookieName, d.sessions.add(secret, d.Now()), int(sessionLife/time.Second))
		d.setCookie(w, r, signInCookie, "", -1)
		http.Redirect(w, r, f.To, http.StatusSeeOther)
		return
	case errors.Is(err, gate.ErrNotAllowed), errors.Is(err, gate.ErrNotFound):
	default:
		f.Problem = "The store does not answer, so nobody can be recognised. Try again."
		d.showSignIn(w, r, http.StatusServiceUnavailable, f)
		return
	}
	if wait := d.signIns.failed(remote(r), d.Now()); wait > 0 {
		w.Header().Set("Retry-After", seconds(wait))
		f.Problem = "Too many tries from this address. Wait " + seconds(wait) + " seconds."
		d.showSignIn(w, r, http.StatusTooManyRequests, f)
		return
	}
	f.Problem = "This key is unknown, revoked or expired."
	d.showSignIn(w, r, http.StatusUnauthorized, f)
}

// inside is a place of the dashboard to go on to, and never another site.
func inside(to string) string {
	u, err := url.Parse(to)
	if err != nil || u.Scheme != "" || u.Host != "" || !strings.HasPrefix(path.Clean(u.Path)+"/", "/ui/") || path.Clean(u.Path) != strings.TrimSuffix(u.Path, "/") || strings.HasPrefix(u.Path, "/ui/sign") || strings.ContainsAny(to, "\\\r\n") {
		return "/ui/"
	}
	return to
}

func (d *Dashboard) signOut(w http.ResponseWriter, r *http.Request, v *visit) error {
	d.sessions.drop(v.id)
	d.setCookie(w, r, cookieName, "", -1)
	http.Redirect(w, r, "/ui/signin", http.StatusSeeOther)
	return nil
}
