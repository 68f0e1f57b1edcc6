package web

import (
	"bytes"
	"errors"
	"io"
	"net/http"

	"github.com/actpass/sidecar/api"
)

// client asks the API in this process, as the visitor: the same handler, key and
// checks as over the network.
func (d *Dashboard) client(r *http.Request, secret string) *api.Client {
	return api.NewClient("http://dashboard.invalid", secret, &http.Client{Transport: inProcess{d.API, r.RemoteAddr}})
}

// inProcess is a transport that calls a handler. remote is the browser's address,
// so that bad keys count against it and not against the dashboard.
type inProcess struct {
	handler http.Handler
	remote  string
}

func (t inProcess) RoundTrip(r *http.Request) (resp *http.Response, err error) {
	in := r.Clone(r.Context())
	in.RemoteAddr, in.RequestURI = t.remote, r.URL.RequestURI()
	if in.Body == nil {
		in.Body = http.NoBody
	}
	rec := &recorder{header: http.Header{}}
	defer func() {
		if p := recover(); p != nil {
			resp, err = nil, errors.New("web: the API failed at a call")
		}
	}()
	t.handler.ServeHTTP(rec, in)
	if rec.status == 0 {
		rec.status = http.StatusOK
	}
	return &http.Response{
		StatusCode: rec.status, Header: rec.header, Request: r, ContentLength: int64(rec.body.Len()),
		Body: io.NopCloser(&rec.body), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}, nil
}

type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header { return r.header }

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
}

func (r *recorder) Write(b []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	return r.body.Write(b)
}
