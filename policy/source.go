package policy

import "strings"

// maxExcerpt bounds what Source gives of one rule, in lines.
const maxExcerpt = 40

// Source gives the lines of the rule, limit or policy that begins at a line of a
// file that was compiled, and the number of the first. Text is "" when the set
// was not compiled from such a line.
//
// The text is the one that was compiled, which the file on disk need not be any
// more.
func (s *Set) Source(file string, line int) (text string, from int) {
	for _, src := range s.sources {
		if src.Name != file {
			continue
		}
		lines := strings.Split(string(src.Data), "\n")
		if line < 1 || line > len(lines) {
			return "", 0
		}
		first := indent(lines[line-1])
		end := line
		for end < len(lines) && end-line+1 < maxExcerpt {
			next := lines[end]
			if strings.TrimSpace(next) != "" && indent(next) <= first {
				break
			}
			end++
		}
		return strings.TrimRight(strings.Join(lines[line-1:end], "\n"), " \t\r\n"), line
	}
	return "", 0
}

// Sources are the files that were compiled, in their order; not to be modified.
func (s *Set) Sources() []Source { return s.sources }

func indent(line string) int { return len(line) - len(strings.TrimLeft(line, " ")) }
