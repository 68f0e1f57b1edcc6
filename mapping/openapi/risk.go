package openapi

import (
	"slices"
	"strings"

	"github.com/actpass/sidecar/mapping"
)

// Words by which a risk is guessed. A phrase of several words is looked for in
// one part of the name.
var (
	// Money or access leaves for good.
	gone = set(`payout transfer withdraw withdrawal wire outbound_payment outbound_transfer bank_account external_account
		api_key apikey secret credential private_key signing_key encryption_key deploy_key webhook webhook_endpoint
		drain purge wipe destroy`)
	// What is gone with it is more than itself.
	roots = set(`account user person customer organization organisation org team tenant workspace project repo repository database
		db bucket cluster domain zone vault backup namespace environment financial_account cardholder`)
	// Money moves, access is given, or something is said or done to others.
	grave = set(`refund charge payment pay invoice credit debit capture dispute subscription order checkout balance topup
		price coupon discount card mandate loan deposit purchase
		role permission member membership collaborator invitation invite grant policy acl access token key session login oauth sso
		saml admin owner password mfa share sudo impersonate
		email mail message sms notification send publish broadcast
		deploy deployment release merge execute exec run invoke dispatch trigger import migrate restore rollback job script query sql
		cancel terminate revoke disable close archive suspend approve reject void finalize remove delete reset rotate lock unlock force
		transaction settle reverse authorization setup_intent promotion accept confirm verify decline forward capability`)
	// Reads that may show secrets, or people in bulk.
	telling = set(`secret token key api_key apikey credential password private_key export backup dump user person customer
		member employee patient contact cardholder identity mandate external_account bank_account financial_account`)
	reading = set(`search query list retrieve get count preview estimate validate lookup calculate check compare quote`)
	passive = set(`list retrieve get search count head options trace query preview estimate validate lookup calculate check compare
		download export read view inspect introspect discover ping poll wait watch echo diff quote verify test report share star
		review request release tag link order charge refund dispute transfer fork like hold return present backup schedule batch render`)
)

// risk guesses by method and words; docs/mapping-tools.md has the rules.
func (n *naming) risk() string {
	var all []string
	for _, part := range append(slices.Clone(n.objects), n.verb) {
		w := strings.Split(part, "_")
		for i := range w {
			w[i] = singular(w[i])
			all = append(all, w[i])
			if i > 0 {
				all = append(all, w[i-1]+"_"+w[i])
			}
		}
	}
	has := func(words map[string]bool) bool {
		return slices.ContainsFunc(all, func(w string) bool { return words[w] })
	}
	firstVerb, _, _ := strings.Cut(n.verb, "_")
	switch n.method {
	case "GET", "HEAD", "OPTIONS":
		switch {
		case verbs[firstVerb] && !passive[firstVerb]:
			return mapping.RiskHigh // an act that is asked for by GET
		case has(telling):
			return mapping.RiskMedium
		}
		return mapping.RiskLow
	case "DELETE":
		if has(gone) || roots[n.objects[len(n.objects)-1]] {
			return mapping.RiskCritical
		}
		return mapping.RiskHigh
	}
	switch {
	case n.method == "POST" && reading[firstVerb]:
		return mapping.RiskMedium
	case has(gone):
		return mapping.RiskCritical
	case has(grave), roots[n.objects[len(n.objects)-1]]:
		return mapping.RiskHigh
	}
	return mapping.RiskMedium
}
