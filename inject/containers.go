package inject

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/actpass/sidecar/launch"
)

// containers puts ours in front and leads the others through them.
func (p *podding) containers() error {
	for _, kind := range []string{"initContainers", "containers"} {
		list, err := items(p.spec, kind)
		if err != nil {
			return err
		}
		if kind == "containers" && len(list) == 0 {
			return fmt.Errorf("the pod has no containers")
		}
		// What bears our names is ours to write: a pod that brings its own "sidecar"
		// gets the real one in its place.
		list = slices.DeleteFunc(list, func(c object) bool {
			name, _ := c["name"].(string)
			return kind == "initContainers" && (name == sidecarName || name == redirectName)
		})
		for _, c := range list {
			if name, _ := c["name"].(string); name == sidecarName || name == redirectName {
				return fmt.Errorf("a container is named %s, which the sidecar's is: give it another name", name)
			}
			if err := p.lead(c); err != nil {
				return fmt.Errorf("container %v: %w", c["name"], err)
			}
		}
		if kind == "initContainers" {
			ours := []object{p.sidecar()}
			if p.redirect {
				ours = append(ours, p.redirector())
			}
			list = append(ours, list...)
		}
		p.spec[kind] = toList(list)
	}
	return nil
}

// lead gives a container the variables, the roots, and what is to be said of it.
func (p *podding) lead(c object) error {
	mounts, err := items(c, "volumeMounts")
	if err != nil {
		return err
	}
	kept := slices.DeleteFunc(mounts, func(m object) bool { return m["name"] == trustVolume })
	for _, m := range kept {
		if at, _ := m["mountPath"].(string); strings.TrimSuffix(at, "/") == trustDir || strings.HasPrefix(at, trustDir+"/") {
			return fmt.Errorf("something is mounted at %s, where the sidecar's roots go", at)
		}
		if name, _ := m["name"].(string); name == dataVolume || name == storeVolume || name == identityVolume || name == caVolume {
			return fmt.Errorf("the volume %s is the sidecar's own, with its keys in it", name)
		}
	}
	c["volumeMounts"] = toList(append(kept, object{"name": trustVolume, "mountPath": trustDir, "readOnly": true}))
	if err := p.environment(c); err != nil {
		return err
	}
	if p.redirect {
		return p.judge(c)
	}
	return nil
}

func (p *podding) environment(c object) error {
	env, err := items(c, "env")
	if err != nil {
		return err
	}
	find := func(name string) int {
		return slices.IndexFunc(env, func(v object) bool { return v["name"] == name })
	}
	literal := func(name string) string {
		if i := find(name); i >= 0 {
			s, _ := env[i]["value"].(string)
			return s
		}
		return ""
	}
	opt := launch.Options{
		ProxyURL: "http://127.0.0.1:" + portProxy, ReverseURL: "http://127.0.0.1:" + portReverse, APIURL: "http://127.0.0.1:" + portAPI,
		NoProxy: p.noProxy,
	}
	alone, err := launch.Variables(trustDir, opt)
	if err != nil {
		return err
	}
	for _, v := range alone { // what an earlier injection put there is not put there twice
		switch v.Name {
		case "NODE_OPTIONS":
			opt.Environ = append(opt.Environ, v.Name+"="+strings.TrimSpace(strings.TrimPrefix(literal(v.Name), v.Value)))
		case "JAVA_TOOL_OPTIONS":
			opt.Environ = append(opt.Environ, v.Name+"="+strings.TrimSpace(strings.TrimSuffix(literal(v.Name), v.Value)))
		}
	}
	vars, err := launch.Variables(trustDir, opt)
	if err != nil {
		return err
	}
	env = slices.DeleteFunc(env, func(v object) bool {
		name, _ := v["name"].(string)
		if launch.LeadsAround(name) {
			p.warn("container %v: %s is taken away, it would lead around the sidecar", c["name"], name)
			return true
		}
		return false
	})
	for _, v := range vars {
		i := find(v.Name)
		switch {
		case i < 0:
			env = append(env, object{"name": v.Name, "value": v.Value})
			continue
		case env[i]["valueFrom"] != nil && (v.Name == "NODE_OPTIONS" || v.Name == "JAVA_TOOL_OPTIONS"):
			p.warn("container %v: %s comes from elsewhere (valueFrom) and is replaced; write it out to have it joined", c["name"], v.Name)
		case env[i]["value"] != v.Value && env[i]["value"] != nil && v.Name != "NODE_OPTIONS" && v.Name != "JAVA_TOOL_OPTIONS":
			p.warn("container %v: %s is replaced", c["name"], v.Name)
		}
		env[i] = object{"name": v.Name, "value": v.Value}
	}
	c["env"] = toList(env)
	return nil
}

// judge says whether the redirect holds for a container: not for one that has the
// sidecar's uid or can take it, nor for one that can change the rules.
func (p *podding) judge(c object) error {
	own, _ := c["securityContext"].(object)
	pod, _ := p.spec["securityContext"].(object)
	either := func(key string) any {
		if v, ok := own[key]; ok {
			return v
		}
		return pod[key]
	}
	uid := fmt.Sprint(either("runAsUser"))
	if uid == strconv.FormatUint(uint64(p.o.UID), 10) {
		return fmt.Errorf("it runs as uid %s, the sidecar's own, and would pass the redirect", uid)
	}
	caps, _ := own["capabilities"].(object)
	has := func(key string, names ...string) bool {
		list, _ := caps[key].([]any)
		for _, v := range list {
			name, _ := v.(string)
			if slices.Contains(names, strings.TrimPrefix(strings.ToUpper(name), "CAP_")) {
				return true
			}
		}
		return false
	}
	root := either("runAsNonRoot") != true && (uid == "0" || uid == "<nil>")
	switch {
	case own["privileged"] == true || has("add", "NET_ADMIN", "SYS_ADMIN", "ALL"):
		p.passable = true
		p.warn("container %v may change the network (privileged, NET_ADMIN or SYS_ADMIN) and so take the redirect away: it is advisory", c["name"])
	case has("add", "SETUID"), root && !has("drop", "ALL", "SETUID"):
		p.passable = true
		p.warn("container %v may run as root with CAP_SETUID and so take the sidecar's uid: the redirect is advisory; set runAsNonRoot: true, or drop ALL capabilities", c["name"])
	}
	return nil
}

func number(n uint64) json.Number { return json.Number(strconv.FormatUint(n, 10)) }

func (p *podding) base(name string) object {
	c := object{"name": name, "image": p.o.Image}
	if p.o.PullPolicy != "" {
		c["imagePullPolicy"] = p.o.PullPolicy
	}
	return c
}

// sidecar is a native sidecar: an init container that goes on running. It is first,
// and what follows waits until its doors are open and its roots are in place.
func (p *podding) sidecar() object {
	c := p.base(sidecarName)
	c["restartPolicy"] = "Always"
	c["args"] = []any{"serve", "--trust-dir", trustDir}
	env := []any{}
	set := func(name, value string) { env = append(env, object{"name": name, "value": value}) }
	set("ACTPASS_DATA_DIR", dataDir)
	set("ACTPASS_LISTEN_PROXY", "127.0.0.1:"+portProxy)
	set("ACTPASS_LISTEN_REVERSE", "127.0.0.1:"+portReverse)
	set("ACTPASS_LISTEN_API", ":"+portAPI) // the kubelet's probes and Prometheus come from outside
	transparent := "off"
	if p.redirect {
		transparent = "localhost:" + portTransparent
	}
	set("ACTPASS_LISTEN_TRANSPARENT", transparent)
	set("TMPDIR", dataDir)
	if p.mode != "" {
		set("ACTPASS_MODE", p.mode)
	}
	if p.agent != "" {
		set("ACTPASS_IDENTITY_AGENT_ID", p.agent)
	}
	mounts := []any{
		object{"name": dataVolume, "mountPath": dataDir},
		object{"name": trustVolume, "mountPath": trustDir},
	}
	if p.config != "" {
		set("ACTPASS_CONFIG", configDir+"/config.yaml")
		mounts = append(mounts, object{"name": configVolume, "mountPath": configDir, "readOnly": true})
	}
	if p.o.StoreSecret != "" {
		set("ACTPASS_STORE_DRIVER", "postgres")
		set("ACTPASS_STORE_DSN_FILE", storeDir+"/dsn")
		set("ACTPASS_STORE_KEY_FILE", storeDir+"/key")
		mounts = append(mounts, object{"name": storeVolume, "mountPath": storeDir, "readOnly": true})
	}
	if p.o.CASecret != "" {
		set("ACTPASS_CA_CERT_FILE", caDir+"/tls.crt")
		set("ACTPASS_CA_KEY_FILE", caDir+"/tls.key")
		mounts = append(mounts, object{"name": caVolume, "mountPath": caDir, "readOnly": true})
	}
	if p.o.ServiceAccountIssuer != "" {
		const account = "ACTPASS_IDENTITY_SERVICE_ACCOUNT_"
		set(account+"TOKEN_FILE", identityDir+"/token")
		set(account+"ISSUER", p.o.ServiceAccountIssuer)
		set(account+"JWKS_URL", "https://kubernetes.default.svc/openid/v1/jwks")
		set(account+"CA_FILE", identityDir+"/ca.crt")
		set(account+"BEARER_FILE", identityDir+"/api-token")
		mounts = append(mounts, object{"name": identityVolume, "mountPath": identityDir, "readOnly": true})
	}
	c["env"], c["volumeMounts"] = env, mounts
	c["ports"] = []any{object{"name": "actpass-api", "containerPort": json.Number(portAPI), "protocol": "TCP"}}
	probe := func(path string, period, failures uint64) object {
		return object{
			"httpGet":       object{"path": path, "port": json.Number(portAPI)},
			"periodSeconds": number(period), "failureThreshold": number(failures), "timeoutSeconds": number(3),
		}
	}
	c["startupProbe"] = probe("/readyz", 1, 60)
	c["readinessProbe"] = probe("/readyz", 5, 3)
	c["livenessProbe"] = probe("/healthz", 10, 6)
	c["resources"] = p.resources()
	c["securityContext"] = object{
		"runAsUser": number(uint64(p.o.UID)), "runAsGroup": number(uint64(p.o.UID)), "runAsNonRoot": true,
		"readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false, "privileged": false,
		"capabilities":   object{"drop": []any{"ALL"}},
		"seccompProfile": object{"type": "RuntimeDefault"},
	}
	return c
}

// redirector loads the rules and ends. It is the one step with a capability.
func (p *podding) redirector() object {
	c := p.base(redirectName)
	c["args"] = []any{"redirect", "--uid", strconv.FormatUint(uint64(p.o.UID), 10), "--port", portTransparent}
	c["resources"] = object{"requests": object{"cpu": "10m", "memory": "32Mi"}, "limits": object{"memory": "64Mi"}}
	c["securityContext"] = object{
		"runAsUser": number(0), "runAsGroup": number(0), "runAsNonRoot": false,
		"readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false, "privileged": false,
		"capabilities":   object{"drop": []any{"ALL"}, "add": []any{"NET_ADMIN"}},
		"seccompProfile": object{"type": "RuntimeDefault"},
	}
	return c
}

func (p *podding) resources() object {
	r := p.o.Resources
	if r == (Resources{}) {
		r = DefaultResources
	}
	out := object{}
	add := func(kind, cpu, memory string) {
		m := object{}
		if cpu != "" {
			m["cpu"] = cpu
		}
		if memory != "" {
			m["memory"] = memory
		}
		if len(m) > 0 {
			out[kind] = m
		}
	}
	add("requests", r.RequestCPU, r.RequestMemory)
	add("limits", r.LimitCPU, r.LimitMemory)
	return out
}

// volumes replaces ours and leaves the others.
func (p *podding) volumes() error {
	list, err := items(p.spec, "volumes")
	if err != nil {
		return err
	}
	list = slices.DeleteFunc(list, func(v object) bool {
		return v["name"] == dataVolume || v["name"] == trustVolume || v["name"] == configVolume || v["name"] == storeVolume || v["name"] == identityVolume || v["name"] == caVolume
	})
	list = append(list,
		object{"name": dataVolume, "emptyDir": object{}},
		object{"name": trustVolume, "emptyDir": object{"sizeLimit": "16Mi"}})
	if p.config != "" {
		list = append(list, object{"name": configVolume, "configMap": object{"name": p.config}})
	}
	if p.o.StoreSecret != "" {
		list = append(list, object{"name": storeVolume, "secret": object{"secretName": p.o.StoreSecret}})
	}
	if p.o.CASecret != "" {
		list = append(list, object{"name": caVolume, "secret": object{"secretName": p.o.CASecret}})
	}
	if p.o.ServiceAccountIssuer != "" {
		token := func(path string, audience ...string) object {
			t := object{"path": path, "expirationSeconds": number(3600)}
			if len(audience) > 0 {
				t["audience"] = audience[0]
			}
			return object{"serviceAccountToken": t}
		}
		// One token says who the pod is, and is of no use to the API server; the other asks
		// that for its keys, which every service account may.
		list = append(list, object{"name": identityVolume, "projected": object{"sources": []any{
			token("token", "actpass"), token("api-token"),
			object{"configMap": object{"name": "kube-root-ca.crt", "items": []any{object{"key": "ca.crt", "path": "ca.crt"}}}},
		}}})
	}
	p.spec["volumes"] = toList(list)
	return nil
}
