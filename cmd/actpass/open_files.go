package main

import (
	"fmt"

	"go.uber.org/zap"
)

// ownFiles is how many open files are for everything but held calls: listeners,
// the log and databases, calls that are not held, and upstreams.
const ownFiles = 1024

// warnOfFiles says when fewer files may be open than the calls that may be held
// need, each its client's connection. (Go has raised the soft limit to the hard one
// by now.) Beyond it connections are not accepted, approved calls not sent, and a
// log that cannot be continued stops everything.
func warnOfFiles(maxHolds int, log *zap.Logger) {
	limit, ok := openFiles()
	if text := fileShortage(limit, maxHolds); ok && text != "" {
		log.Warn(text, zap.Uint64("open_files", limit), zap.Int("max_holds", maxHolds))
	}
}

func fileShortage(limit uint64, maxHolds int) string {
	need := uint64(maxHolds) + ownFiles
	if limit >= need {
		return ""
	}
	return fmt.Sprintf("this process may open %d files, and limits.max_holds needs %d: raise the limit (LimitNOFILE= of systemd, ulimit -Hn, --ulimit nofile=) or lower limits.max_holds", limit, need)
}
