package mapping

import (
	"embed"
	"fmt"
	"strings"
)

// The directory is embedded whole, with its manual, so that it is never empty.
//
//go:embed catalog
var catalog embed.FS

// Pack returns the embedded catalogue pack of that name; the error lists the
// names there are.
func Pack(name string) (Source, error) {
	file := name + ".yaml"
	if identifier(strings.ReplaceAll(name, "-", "_")) {
		if data, err := catalog.ReadFile("catalog/" + file); err == nil {
			return Source{Name: file, Data: data}, nil
		}
	}
	return Source{}, fmt.Errorf("there is no mapping pack %q: the packs are %s", name, strings.Join(Packs(), ", "))
}

// Packs lists the embedded packs by name, sorted.
func Packs() []string {
	entries, err := catalog.ReadDir("catalog")
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".yaml"); ok {
			names = append(names, name)
		}
	}
	return names
}
