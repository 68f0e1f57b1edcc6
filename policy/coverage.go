package policy

// RuleInfo is what a listing shows of a rule.
type RuleInfo struct {
	Policy string
	Name   string
	Pos    Pos
}

// Rules lists the rules of all policies in file order.
func (s *Set) Rules() []RuleInfo {
	var out []RuleInfo
	for _, p := range s.policies {
		for _, r := range p.rules {
			out = append(out, RuleInfo{Policy: p.name, Name: r.name, Pos: r.decision.Pos})
		}
	}
	return out
}
