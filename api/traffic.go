package api

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/mapping/openapi"
)

// Traffic is what the record says of calls: how many a mapping rule named, and
// what the others were.
type Traffic struct {
	Mapped   int
	Unmapped map[openapi.Call]int
	Tunnels  map[string]int // by authority: not looked into
	Read     int            // actions looked at
	More     bool           // there are older ones, which were not
}

// Traffic pages through the actions on record since a time, the newest first; host
// "" is any; most 0 is all. The preflight door's are left out: they name their
// tools themselves. progress, which may be nil, is told how many were read.
func (c *Client) Traffic(ctx context.Context, since time.Time, host string, most int, progress func(read int)) (*Traffic, error) {
	q := EventQuery{Since: since, Kind: evidence.KindAction, Limit: MaxLimit}
	t := &Traffic{Unmapped: make(map[openapi.Call]int), Tunnels: make(map[string]int)}
	for {
		p, err := c.Events(ctx, q)
		if err != nil {
			return nil, err
		}
		for _, raw := range p.Data {
			if err := t.add(raw, host); err != nil {
				return nil, err
			}
		}
		if p.Next == "" || len(p.Data) == 0 {
			return t, nil
		}
		if most > 0 && t.Read >= most {
			t.More = true
			return t, nil
		}
		if progress != nil {
			progress(t.Read)
		}
		q.Cursor = p.Next
	}
}

func (t *Traffic) add(raw json.RawMessage, host string) error {
	var e struct {
		Tool        string             `json:"tool"`
		Request     *evidence.Request  `json:"request"`
		MappingRule *evidence.Position `json:"mapping_rule"`
	}
	if err := json.Unmarshal(raw, &e); err != nil {
		return fmt.Errorf("read an event: %w", err)
	}
	t.Read++
	r := e.Request
	switch {
	case r == nil || r.Authority == "" || host != "" && !openapi.SameHost(host, r.Authority):
	case e.Tool == "http.connect":
		t.Tunnels[r.Authority]++
	case e.MappingRule != nil:
		t.Mapped++
	default:
		t.Unmapped[openapi.Call{Method: r.Method, Authority: r.Authority, Path: r.Path, ContentType: r.ContentType}]++
	}
	return nil
}
