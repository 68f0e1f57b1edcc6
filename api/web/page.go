package web

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/gate"
)

// fragmentHeader is on a page's request for itself; the answer leaves out what
// does not change.
const fragmentHeader = "ActPass-Fragment"

type pageTemplate = *template.Template

// page is what each template gets.
type page struct {
	Title   string
	Nav     string // the entry that is lit
	Who     gate.Identity
	CSRF    string
	Pending int // approvals that wait; 100 is "100 or more"
	Live    bool
	// Again says that what is shown is not all yet: the page asks again in a second.
	// With AgainByScript it does so by script only, where a form may be half filled in.
	Again, AgainByScript bool

	Fragment bool
	Notice   string
	Problem  string
	Version  string
	Now      time.Time
	Body     any
}

// fill sets what every page shows about its visitor.
func (p *page) fill(d *Dashboard, r *http.Request, v *visit) {
	p.Version, p.Now = d.Version, d.Now()
	p.Fragment = r.Header.Get(fragmentHeader) != ""
	if v == nil {
		return
	}
	p.Who, p.CSRF = v.who, v.csrf
	if list, err := v.api.Approvals(r.Context(), gate.ApprovalPending, "", "", 100); err == nil {
		p.Pending = len(list.Data)
	}
}

// Human says whether the visitor may see the record and decide.
func (p *page) Human() bool { return p.Who.Role == gate.RoleApprover || p.Who.Role == gate.RoleAdmin }

// Admin says whether the visitor administers.
func (p *page) Admin() bool { return p.Who.Role == gate.RoleAdmin }

// show renders a page of the dashboard.
func (d *Dashboard) show(w http.ResponseWriter, r *http.Request, v *visit, name string, p *page) error {
	p.fill(d, r, v)
	d.render(w, r, http.StatusOK, name, p)
	return nil
}

func (d *Dashboard) render(w http.ResponseWriter, r *http.Request, status int, name string, p *page) {
	var b bytes.Buffer // whole or not at all
	pages, err := d.pages()
	if err == nil {
		err = pages[name].ExecuteTemplate(&b, "page", p)
	}
	if err != nil {
		d.Logger.Error("dashboard page could not be rendered", zap.String("page", name), zap.Error(err))
		http.Error(w, "the sidecar failed at this page; its log says why", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(b.Len()))
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes())
}

// loadPages parses templates/NAME.html, each over templates/base.html.
func loadPages(assets func() (map[string]asset, error)) (map[string]pageTemplate, error) {
	static, err := assets()
	if err != nil {
		return nil, err
	}
	funcs := template.FuncMap{
		"asset": func(name string) (string, error) {
			a, ok := static[name]
			if !ok {
				return "", fmt.Errorf("there is no asset %s", name)
			}
			return "/ui/static/" + name + "?v=" + a.version, nil
		},
		"claim": claim, "clip": clipped, "when": when, "ago": ago, "until": until, "short": short, "mark": mark,
		"words": words, "duration": duration, "size": size, "json": jsonText, "value": value, "brief": brief, "plural": plural, "thousands": thousands, "thousandsOf": func(n int) string { return thousands(int64(n)) }, "portion": portion, "code": code, "veiled": veiled, "amounts": amounts, "share": share, "percent": func(n int64, p int64) int64 { return n * p / 100 }, "list": func(s ...string) []string { return s },
	}
	base, err := template.New("base").Funcs(funcs).ParseFS(files, "templates/base.html", "templates/parts.html")
	if err != nil {
		return nil, err
	}
	names, err := fs.Glob(files, "templates/*.html")
	if err != nil {
		return nil, err
	}
	out := map[string]pageTemplate{}
	for _, name := range names {
		t, err := base.Clone()
		if err == nil {
			t, err = t.ParseFS(files, name)
		}
		if err != nil {
			return nil, err
		}
		out[strings.TrimSuffix(path.Base(name), ".html")] = t
	}
	return out, nil
}

// asset is one static file.
type asset struct {
	kind, version string
	data          []byte
}

func loadAssets() (map[string]asset, error) {
	kinds := map[string]string{".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
	out := map[string]asset{}
	entries, err := fs.ReadDir(files, "static")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		b, err := files.ReadFile("static/" + e.Name())
		if err != nil {
			return nil, err
		}
		h := sha256.Sum256(b)
		out[e.Name()] = asset{kinds[path.Ext(e.Name())], hex.EncodeToString(h[:6]), b}
	}
	return out, nil
}

// static serves what the pages name; an address with the file's own version may
// be kept for ever.
func (d *Dashboard) static(w http.ResponseWriter, r *http.Request) {
	all, err := d.assets()
	a, ok := all[r.PathValue("name")]
	if err != nil || !ok || a.kind == "" {
		http.Error(w, "there is no such file", http.StatusNotFound)
		return
	}
	w.Header().Set("Cache-Control", "no-cache")
	if r.URL.Query().Get("v") == a.version {
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	w.Header().Set("Content-Type", a.kind)
	w.Header().Set("ETag", `"`+a.version+`"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(a.data))
}

// problemOf is an error of the API that belongs into the page, "" and the error
// when it does not.
func problemOf(err error) (string, error) {
	if e, ok := err.(*api.Error); ok && e.Status != http.StatusUnauthorized && e.Status < 500 {
		return sentence(e), nil
	}
	return "", err
}
