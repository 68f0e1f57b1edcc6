package gate

// Identity is who calls, and how that is known. The tenant comes from the key
// or the configuration, never from the request.
type Identity struct {
	TenantID string
	AgentID  string
	Source   string // passport, api_key, config
	KeyID    string
	KeyMode  string // tightens
	Role     string
	Groups   []string
}
