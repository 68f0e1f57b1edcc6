// Package inject puts the sidecar into a pod's specification: a native sidecar
// container in front of everything else, the variables and roots that lead the
// other containers through it, and, where asked for, the rules that force them.
//
// It is one pure function over an untyped object, Pod, and two readers around it:
// Manifests for YAML documents and Review for a Kubernetes admission request. Both
// apply what Pod changed as a patch, so that what they do not know, and what they
// do not touch, stays as it was. A pod that is injected already is not changed.
package inject

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/actpass/sidecar/launch"
)

// Label asks for injection, on a pod or on its namespace: "enabled". On a pod
// "disabled" beats the namespace.
const Label = "actpass.dev/inject"

// Annotations of a pod.
const (
	AnnotationMode     = "actpass.dev/mode"     // monitor, warn, enforce or strict; no looser than Options.Mode
	AnnotationAgentID  = "actpass.dev/agent-id" // who the pod's agent is
	AnnotationConfig   = "actpass.dev/config"   // ConfigMap with config.yaml and what it names
	AnnotationRedirect = "actpass.dev/redirect" // "true": outbound TCP is forced through the sidecar
	AnnotationNoProxy  = "actpass.dev/no-proxy" // what is reached directly besides the loopback, with commas
	AnnotationStatus   = "actpass.dev/injected" // set by us: forced, or advisory
	annotationPrefix   = "actpass.dev/"         // all of them
	enabled, disabled  = "enabled", "disabled"  // values of Label
	forced, advisory   = "forced", "advisory"   // values of AnnotationStatus
	sidecarName        = "actpass"              // our containers and volumes
	redirectName       = "actpass-redirect"     //
	dataVolume         = "actpass-data"         //
	trustVolume        = "actpass-trust"        //
	configVolume       = "actpass-config"       //
	storeVolume        = "actpass-store"        //
	caVolume           = "actpass-ca"
	identityVolume     = "actpass-identity"   //
	dataDir            = "/data"              // in the sidecar
	configDir          = "/etc/actpass"       // in the sidecar
	storeDir           = "/etc/actpass-store" // in the sidecar
	caDir              = "/etc/actpass-ca"
	identityDir        = "/var/run/actpass/identity" // in the sidecar
	trustDir           = "/var/run/actpass/trust"    // in every container
)

// Ports inside the pod, chosen to be nobody's: the agent's own 8080 stays its own.
const (
	portProxy       = "18080"
	portReverse     = "18081"
	portAPI         = "18090"
	portTransparent = "15001"
)

// modes from loose to tight.
var modes = []string{"monitor", "warn", "enforce", "strict"}

// Options are the operator's part. The zero value lacks an image and injects
// nothing.
type Options struct {
	// Image of the sidecar, and how it is pulled ("" leaves it to the cluster).
	Image, PullPolicy string
	// UID that the sidecar runs as. It must be no agent's, since the redirect knows
	// the sidecar by it.
	UID uint32
	// Mode, where set, holds for every pod; an annotation can only tighten it.
	Mode string
	// ConfigMap is used by pods without an annotation; "" is the image's own
	// configuration.
	ConfigMap string
	// StoreSecret is a Secret of each pod's namespace whose key `dsn` says which
	// PostgreSQL the sidecars share, and `key` holds the secret that they have in common
	// (store.key_file); "": each has state of its own. No annotation chooses another.
	StoreSecret string
	// CASecret is a Secret of each pod's namespace, of type kubernetes.io/tls, with the CA
	// that signs for intercepted hosts; "": each sidecar makes its own.
	CASecret string
	// ServiceAccountIssuer is the issuer of the cluster's service account tokens: the
	// sidecar gets one for itself, and its agent is the pod's service account; "": the
	// configuration or the annotation names the agent.
	ServiceAccountIssuer string
	// Redirect is what holds for pods without an annotation.
	Redirect bool
	// Resources of the sidecar; the zero value is DefaultResources.
	Resources Resources
}

// Resources as Kubernetes writes quantities; an empty one is not set.
type Resources struct{ RequestCPU, RequestMemory, LimitCPU, LimitMemory string }

// DefaultResources fit a sidecar with some hundred calls a second. There is no
// CPU limit: throttling would delay every call of the agent.
var DefaultResources = Resources{RequestCPU: "50m", RequestMemory: "64Mi", LimitMemory: "256Mi"}

// DefaultUID is not 65532, which many images run their own program as.
const DefaultUID = 64365

// Check says what of the options cannot be used.
func (o Options) Check() error {
	switch {
	case o.Image == "":
		return fmt.Errorf("an image of the sidecar is needed")
	case o.UID == 0:
		return fmt.Errorf("the sidecar needs a uid of its own, not 0: whatever runs as root would pass the redirect")
	case o.Mode != "" && !slices.Contains(modes, o.Mode):
		return fmt.Errorf("mode %q is none of %s", o.Mode, strings.Join(modes, ", "))
	}
	return nil
}

type object = map[string]any

// Wanted says whether a pod with these labels is to be injected.
func Wanted(labels object, namespace bool) bool {
	v, _ := labels[Label].(string)
	return v == enabled || namespace && v != disabled
}

// Pod changes pod, an object with metadata and spec as encoding/json decodes it
// with numbers as json.Number, whether or not its label asks for it. The warnings
// are sentences for who wrote the pod. On an error pod is not to be used.
func Pod(pod object, o Options) (warnings []string, err error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	spec, ok := pod["spec"].(object)
	if !ok {
		return nil, fmt.Errorf("there is no spec")
	}
	meta, err := child(pod, "metadata")
	if err != nil {
		return nil, err
	}
	p := &podding{o: o, spec: spec}
	if err := p.read(meta); err != nil {
		return nil, err
	}
	if err := p.refuse(); err != nil {
		return nil, err
	}
	if err := p.containers(); err != nil {
		return nil, err
	}
	if err := p.volumes(); err != nil {
		return nil, err
	}
	annotations, err := child(meta, "annotations")
	if err != nil {
		return nil, err
	}
	annotations[AnnotationStatus] = advisory
	if p.redirect && !p.passable {
		annotations[AnnotationStatus] = forced
	}
	return p.warnings, nil
}

// podding is one pod being changed.
type podding struct {
	o        Options
	spec     object
	warnings []string

	mode, agent, config string
	redirect            bool
	noProxy             []string
	passable            bool // some container could get round the redirect
}

func (p *podding) warn(format string, args ...any) {
	p.warnings = append(p.warnings, fmt.Sprintf(format, args...))
}

// read takes the annotations.
func (p *podding) read(meta object) error {
	p.mode, p.config, p.redirect, p.noProxy = p.o.Mode, p.o.ConfigMap, p.o.Redirect, launch.Loopback
	annotations, _ := meta["annotations"].(object)
	for _, name := range slices.Sorted(maps.Keys(annotations)) {
		if !strings.HasPrefix(name, annotationPrefix) {
			continue
		}
		value, ok := annotations[name].(string)
		if !ok {
			return fmt.Errorf("annotation %s is not a string: put it in quotes", name)
		}
		value = strings.TrimSpace(value)
		switch name {
		case AnnotationMode:
			if !slices.Contains(modes, value) {
				return fmt.Errorf("annotation %s: %q is none of %s", name, value, strings.Join(modes, ", "))
			}
			if slices.Index(modes, value) < slices.Index(modes, p.o.Mode) {
				return fmt.Errorf("annotation %s: %q is looser than %q, which holds for every pod here", name, value, p.o.Mode)
			}
			p.mode = value
		case AnnotationAgentID:
			p.agent = value
			if p.o.ServiceAccountIssuer != "" {
				p.warn("annotation %s has no effect: the service account names the agent here", name)
			}
		case AnnotationConfig:
			p.config = value
		case AnnotationRedirect:
			on, err := strconv.ParseBool(value)
			if err != nil {
				return fmt.Errorf("annotation %s: %q is neither \"true\" nor \"false\"", name, value)
			}
			if p.o.Redirect && !on {
				return fmt.Errorf("annotation %s: every pod here is redirected", name)
			}
			p.redirect = on
		case AnnotationNoProxy:
			p.noProxy = slices.Clone(p.noProxy)
			for entry := range strings.SplitSeq(value, ",") {
				if entry = strings.TrimSpace(entry); entry != "" {
					p.noProxy = append(p.noProxy, entry)
				}
			}
		case AnnotationStatus:
		default:
			p.warn("annotation %s is not known and has no effect", name)
		}
	}
	return nil
}

// refuse says why a pod can have no sidecar that does what it says.
func (p *podding) refuse() error {
	if on, _ := p.spec["hostNetwork"].(bool); on {
		return fmt.Errorf("the pod uses the node's network (hostNetwork): a sidecar would listen for the whole node, and a redirect would take the node's traffic")
	}
	if os, _ := p.spec["os"].(object); os["name"] == "windows" {
		return fmt.Errorf("the pod runs on Windows, for which there is no sidecar")
	}
	return nil
}

// child is the object under a key, made where it is missing.
func child(parent object, key string) (object, error) {
	switch v := parent[key].(type) {
	case object:
		return v, nil
	case nil:
		made := object{}
		parent[key] = made
		return made, nil
	}
	return nil, fmt.Errorf("%s is not an object", key)
}

// items are the objects in the list under a key.
func items(parent object, key string) ([]object, error) {
	list, ok := parent[key].([]any)
	if !ok && parent[key] != nil {
		return nil, fmt.Errorf("%s is not a list", key)
	}
	out := make([]object, len(list))
	for i, v := range list {
		if out[i], ok = v.(object); !ok {
			return nil, fmt.Errorf("%s[%d] is not an object", key, i)
		}
	}
	return out, nil
}

func toList(objects []object) []any {
	out := make([]any, len(objects))
	for i, o := range objects {
		out[i] = o
	}
	return out
}
