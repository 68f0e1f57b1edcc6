package api

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/actpass/sidecar/gate"
)

const countsPath = "/api/v1/evidence/counts"

func TestCounts(t *testing.T) {
	r := newReal(t, gate.ModeEnforce)
	agent, _ := r.key(t, `{"name":"agent","role":"gateway","agent_id":"support_agent"}`)
	human, _ := r.key(t, `{"name":"ann","role":"approver"}`)
	for range 3 {
		r.call("POST", preflightPath, agent, refund("4900", "")).want(t, 200, "", "")
	}
	r.call("POST", preflightPath, agent, refund("4900000", "")).want(t, 403, "", "")
	for _, step := range []string{"", "?step=hour", "?step=minute"} {
		got := r.call("GET", countsPath+step, human, "")
		got.want(t, 200, "", "")
		var p Page[Count]
		if err := json.Unmarshal([]byte(got.body), &p); err != nil {
			t.Fatal(err)
		}
		sum := map[string]int64{}
		for _, c := range p.Data {
			if c.Tool != "stripe.refund.create" || c.AgentID != "support_agent" || c.Mapping != "caller" || c.Mode != "enforce" {
				t.Errorf("%+v", c)
			}
			sum[c.Decision+" "+c.Enforcement] += c.Count
		}
		if sum["allow none"] != 3 || sum["deny block"] != 1 || len(sum) != 2 {
			t.Errorf("%s: %v", step, sum)
		}
	}
	// Page by page it is the same list.
	var all, paged []Count
	since := "since=" + time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)
	for cursor := "?"; ; {
		var p, whole Page[Count]
		if err := json.Unmarshal([]byte(r.call("GET", countsPath+"?"+since, human, "").body), &whole); err != nil || whole.Next != "" {
			t.Fatal(err, whole.Next)
		}
		if err := json.Unmarshal([]byte(r.call("GET", countsPath+cursor+since+"&limit=1", human, "").body), &p); err != nil || len(p.Data) != 1 {
			t.Fatalf("%d in a page of one, %v", len(p.Data), err)
		}
		all, paged = whole.Data, append(paged, p.Data...)
		if p.Next == "" {
			break
		}
		cursor = "?cursor=" + p.Next + "&"
	}
	if len(all) < 2 || !reflect.DeepEqual(paged, all) {
		t.Errorf("by pages of one: %v, at once: %v", paged, all)
	}
	old := time.Now().Add(-200 * 24 * time.Hour).UTC().Format(time.RFC3339)
	r.call("GET", countsPath+"?since="+old, human, "").want(t, 400, "invalid_request", "since")
	r.call("GET", countsPath+"?step=minute&since="+time.Now().Add(-4*time.Hour).UTC().Format(time.RFC3339), human, "").want(t, 400, "invalid_request", "since")
	r.call("GET", countsPath+"?step=day", human, "").want(t, 400, "invalid_request", "step")
}
