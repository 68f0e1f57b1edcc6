package strictyaml

import "bytes"

// maxNested bounds what opens in a file before it is parsed: the YAML parser
// recurses once for each, and takes time by the square of it.
const maxNested = 64

// tooNested gives the line on which flow brackets nest too deep, or lists open on
// one line ("- - - a"), or 0. Brackets inside quotes count too; no file has that
// many.
func tooNested(data []byte) int {
	depth, opened, fresh := 0, 0, true // fresh: nothing but indicators stands on the line yet
	for i, b := range data {
		switch b {
		case '[', '{':
			if depth++; depth > maxNested {
				return 1 + bytes.Count(data[:i], []byte("\n"))
			}
			fresh = false
		case ']', '}':
			depth = max(depth-1, 0)
			fresh = false
		case '\n':
			opened, fresh = 0, true
		case ' ', '\t':
		case '-', '?', ':':
			if !fresh {
				continue
			}
			if i+1 < len(data) && data[i+1] != ' ' {
				fresh = false
			} else if opened++; opened > maxNested {
				return 1 + bytes.Count(data[:i], []byte("\n"))
			}
		default:
			fresh = false
		}
	}
	return 0
}
