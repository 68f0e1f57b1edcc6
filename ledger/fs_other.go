//go:build !linux

package ledger

import "time"

// Sync of os.File asks for a full flush where the system has one (macOS).
func (f diskFile) Sync() error {
	defer countBlocked(time.Now())
	return f.File.Sync()
}

// Forget has no portable form.
func (f diskFile) Forget() {}
