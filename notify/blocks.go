package notify

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/actpass/sidecar/gate"
)

// Action ids of the buttons.
const (
	actionApprove = "actpass_approve"
	actionDeny    = "actpass_deny"
)

// Limits of Block Kit, in characters; we count bytes, which are never fewer.
// https://docs.slack.dev/reference/block-kit/blocks
const (
	maxHeader  = 150
	maxSection = 3000
	maxField   = 2000
)

type object = map[string]any

// slackMessage is an approval as a message: text is what a notification shows.
//
// All that an agent, or anybody but us, has supplied goes into plain_text, which
// Slack does not format, link or search for mentions, and is escaped besides. It
// stands under a line that says whose words it is.
func slackMessage(a gate.Approval) (text string, blocks []object) {
	title := map[string]string{
		gate.ApprovalPending: "Approval needed", gate.ApprovalApproved: "Approved, not used yet", gate.ApprovalDenied: "Denied",
		gate.ApprovalExpired: "Expired", gate.ApprovalCancelled: "Cancelled", gate.ApprovalConsumed: "Approved and used",
	}[a.State]
	text = escaped(title+": "+a.Tool+" for "+a.AgentID, 300)
	blocks = []object{
		{"type": "header", "text": plainText(title+" ("+cmp.Or(a.Risk, "unknown")+" risk)", maxHeader)},
		{"type": "section", "fields": []object{
			plainText("Tool: "+a.Tool, maxField),
			plainText("Agent: "+a.AgentID, maxField),
			plainText("Rule: "+strings.Trim(a.Policy+" / "+a.Rule, " /"), maxField),
			plainText(fmt.Sprintf("Approvals: %d of %d, by %s", approvals(a), a.Required, cmp.Or(strings.Join(a.Approvers, ", "), "any approver")), maxField),
			plainText("Decide by: "+a.ExpiresAt.UTC().Format(time.RFC3339), maxField),
		}},
		section("Why: " + a.Summary),
		small("*Supplied by the agent, not verified:*"),
		section("Resource: " + a.Resource),
		section("Arguments: " + arguments(a)),
	}
	if r := a.Request; r != nil {
		blocks = append(blocks, section("Request: "+r.Method+" "+r.Authority+r.Path))
	}
	if a.Goal != "" || a.UserID != "" {
		blocks = append(blocks, section("Goal: "+cmp.Or(a.Goal, "-")), section("User: "+cmp.Or(a.UserID, "-")))
	}
	if len(a.Votes) > 0 {
		blocks = append(blocks, small("*Said so far:*"))
		for _, v := range a.Votes[max(0, len(a.Votes)-10):] {
			blocks = append(blocks, section(v.Name+": "+v.Decision+" "+v.Reason))
		}
	}
	if a.State == gate.ApprovalPending {
		blocks = append(blocks, object{"type": "actions", "block_id": "actpass_decide", "elements": []object{
			{"type": "button", "action_id": actionApprove, "style": "primary", "text": plainText("Approve", 75), "value": a.ID},
			{"type": "button", "action_id": actionDeny, "style": "danger", "text": plainText("Deny", 75), "value": a.ID},
		}})
	}
	return text, append(blocks, small("`"+escaped(a.ID, 100)+"` · evidence `"+escaped(cmp.Or(a.EventID, "-"), 100)+"`"))
}

func approvals(a gate.Approval) (n int) {
	for i := range a.Votes {
		if a.Counts(i) {
			n++
		}
	}
	return n
}

// arguments are the redacted arguments as JSON, whose control characters are
// escapes already.
func arguments(a gate.Approval) string {
	if len(a.Args) == 0 {
		return "none"
	}
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // escaped does that
	if err := e.Encode(a.Args); err != nil {
		return "cannot be shown"
	}
	return strings.TrimSpace(b.String())
}

func section(text string) object {
	return object{"type": "section", "text": plainText(text, maxSection)}
}

// small is a line in small type, of our own words only: it is formatted.
func small(text string) object {
	return object{"type": "context", "elements": []object{{"type": "mrkdwn", "text": text}}}
}

func plainText(s string, most int) object {
	return object{"type": "plain_text", "text": escaped(s, most), "emoji": false}
}

// escaped is s made visible, with Slack's three control characters as entities,
// cut to at most n bytes with no entity cut in two.
func escaped(s string, n int) string {
	const more = "…"
	s = entities.Replace(Visible(Clip(s, n)))
	if len(s) <= n {
		return s
	}
	cut := n - len(more)
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	if amp := strings.LastIndexByte(s[:cut], '&'); amp >= 0 && !strings.Contains(s[amp:cut], ";") {
		cut = amp
	}
	return s[:cut] + more
}

var entities = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")
