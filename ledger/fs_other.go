//go:build !linux

package ledger

// Sync of os.File asks for a full flush where the system has one (macOS).
func (f diskFile) Sync() error { return f.File.Sync() }

// Forget has no portable form.
func (f diskFile) Forget() {}
