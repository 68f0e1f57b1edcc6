package strictyaml

import (
	"strings"
	"testing"
	"time"
)

func TestNestingIsBounded(t *testing.T) {
	for name, text := range map[string]string{
		"brackets":  "a: " + strings.Repeat("[", 100_000),
		"braces":    "a: " + strings.Repeat("{a: ", 100_000),
		"dashes":    "a:\n  " + strings.Repeat("- ", 500_000) + "x\n",
		"questions": "a:\n  " + strings.Repeat("? ", 500_000) + "x\n",
		"mixed":     "a:\n  " + strings.Repeat("- ? ", 200_000) + "x\n",
	} {
		start := time.Now()
		var into map[string]any
		err := Decode("f.yaml", []byte(text), &into)
		if err == nil || !strings.Contains(err.Error(), "nested deeper") {
			t.Errorf("%s: %.200v", name, err)
		}
		if took := time.Since(start); took > 500*time.Millisecond { // 50 ms on a quiet machine
			t.Errorf("%s: %v", name, took)
		}
	}
	for _, text := range []string{"a: [-1, -2]\n", "a:\n  - - - x\n", "a: '- - - -'\n", "a: " + strings.Repeat("- ", 100) + "\n", "a: |\n  x" + strings.Repeat(" - ", 100) + "\n"} {
		if line := tooNested([]byte(text)); line != 0 {
			t.Errorf("%q: line %d", text, line)
		}
	}
}
