package mapping

import "reflect"

// boxTexts makes interface values of texts, several of them in one allocation:
// an interface value points to its text, and here the texts of a request lie side
// by side. An array that reflect holds by value cannot be changed, so that it
// gives pointers into it instead of copies. out is as long as texts.
func boxTexts(out []any, texts []string) {
	for len(texts) > 0 {
		var slab reflect.Value
		n := len(texts)
		switch {
		case n == 1:
			out[0] = texts[0]
			return
		case n <= 4:
			slab = reflect.ValueOf([4]string(pad(texts, make([]string, 4))))
		case n <= 8:
			slab = reflect.ValueOf([8]string(pad(texts, make([]string, 8))))
		case n <= 16:
			slab = reflect.ValueOf([16]string(pad(texts, make([]string, 16))))
		default:
			n = min(n, 64)
			slab = reflect.ValueOf([64]string(pad(texts[:n], make([]string, 64))))
		}
		for i := range n {
			out[i] = slab.Index(i).Interface()
		}
		out, texts = out[n:], texts[n:]
	}
}

func pad(texts, room []string) []string {
	copy(room, texts)
	return room
}
