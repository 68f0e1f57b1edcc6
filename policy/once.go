package policy

import "slices"

// ReadsOnce lists the headers and query parameters that the rules and limits
// covering a tool read as one value: "header.X-Team", "query.force". One that a
// condition looks into as a list ("a" in header["X-Team"]) is not among them.
func (s *Set) ReadsOnce(tool string) []string {
	var out []string
	s.eachReads(tool, func(reads []read) {
		for i := range reads {
			r := &reads[i]
			if r.root != "header" && r.root != "query" || len(r.path) != 1 || slices.ContainsFunc(reads, r.above) {
				continue
			}
			if name := r.String(); !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	})
	return out
}

// above says whether o is of something within r.
func (r *read) above(o read) bool {
	return o.root == r.root && len(o.path) > len(r.path) && isPrefix(r.path, o.path)
}
