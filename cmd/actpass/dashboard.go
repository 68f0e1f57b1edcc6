package main

import (
	"net/http"

	"github.com/actpass/sidecar/api/web"
)

// dashboard is what the pages are made with; h is the API that they ask.
func (p *program) dashboard(h http.Handler) web.Options {
	return web.Options{
		API: h, Gate: p.gate, Evidence: p.pageEvidence(), Logger: p.log, Version: version,
		Hosts: func() []string { return p.inForce().Dashboard.Hosts },
		Addresses: func() web.Addresses {
			a := web.Addresses{Proxy: p.addresses.proxy, Reverse: p.addresses.reverse, API: p.addresses.api}
			if p.role != control {
				a.CAFile = caFilesOf(p.cfg).cert
			}
			return a
		},
	}
}
