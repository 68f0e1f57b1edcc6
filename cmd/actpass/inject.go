package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/actpass/sidecar/inject"
)

func newInjectCmd() *cobra.Command {
	o := inject.Options{Image: defaultImage()}
	var file, out string
	var serve injectServer
	var on bool
	cmd := &cobra.Command{
		Use:   "inject",
		Short: "Put the sidecar into the pods of Kubernetes manifests, or serve the webhook that does",
		Long: `Reads YAML or JSON documents and gives them back with the sidecar in every pod
whose label ` + inject.Label + ` is "enabled", on the pod's template or on a Namespace in
the same stream. All other documents come back byte for byte. Injected again,
nothing changes.

With --serve it is a mutating admission webhook (HTTPS) that does the same to pods
as they are created: /inject for those with the label, /inject/namespace for those
whose namespace has it. The certificate is read again when its files change.`,
		Example: `  actpass inject -f deploy.yaml | kubectl apply -f -
  kubectl get deploy agent -o yaml | actpass inject --redirect | kubectl apply -f -
  actpass inject --serve --listen :8443 --tls-cert /tls/tls.crt --tls-key /tls/tls.key`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.Check(); err != nil {
				return usage("%v", err)
			}
			if on {
				return serve.run(cmd, o)
			}
			if serve.cert != "" || serve.key != "" {
				return usage("--tls-cert and --tls-key are for --serve")
			}
			return injectFile(cmd, file, out, o)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&file, "filename", "f", "-", "manifests to read; - is standard input")
	f.StringVarP(&out, "out", "o", "-", "file to write; - is standard output")
	f.StringVar(&o.Image, "image", o.Image, "image of the sidecar")
	f.StringVar(&o.PullPolicy, "image-pull-policy", "", "Always, IfNotPresent or Never")
	f.Uint32Var(&o.UID, "uid", inject.DefaultUID, "uid of the sidecar; no agent may run as it")
	f.StringVar(&o.Mode, "mode", "", "mode of every sidecar; a pod's annotation can only tighten it")
	f.StringVar(&o.ConfigMap, "config-map", "", "ConfigMap with config.yaml, in the pod's namespace, where no annotation names one")
	f.StringVar(&o.StoreSecret, "store-secret", "", "Secret with the keys dsn and key, in the pod's namespace: the PostgreSQL that all sidecars share")
	f.StringVar(&o.CASecret, "ca-secret", "", "Secret of type kubernetes.io/tls with the CA of intercepted hosts, in the pod's namespace")
	f.StringVar(&o.ServiceAccountIssuer, "service-account-issuer", "", "issuer of the cluster's service account tokens: the pod's service account is then the agent")
	f.BoolVar(&o.Redirect, "redirect", false, "force outbound TCP through the sidecar, in every pod")
	r := inject.DefaultResources
	o.Resources = r
	f.StringVar(&o.Resources.RequestCPU, "request-cpu", r.RequestCPU, "CPU that the sidecar asks for")
	f.StringVar(&o.Resources.RequestMemory, "request-memory", r.RequestMemory, "memory that the sidecar asks for")
	f.StringVar(&o.Resources.LimitCPU, "limit-cpu", r.LimitCPU, "CPU limit; none by default, since throttling delays every call")
	f.StringVar(&o.Resources.LimitMemory, "limit-memory", r.LimitMemory, "memory limit")
	f.BoolVar(&on, "serve", false, "serve the admission webhook")
	f.StringVar(&serve.listen, "listen", ":8443", "address of the webhook")
	f.StringVar(&serve.cert, "tls-cert", "", "certificate of the webhook, PEM; read again when it changes")
	f.StringVar(&serve.key, "tls-key", "", "its key, PEM")
	return cmd
}

func defaultImage() string { return "ghcr.io/actpass/sidecar:" + version }

func injectFile(cmd *cobra.Command, file, out string, o inject.Options) error {
	var in []byte
	var err error
	if file == "-" || file == "" {
		in, err = io.ReadAll(cmd.InOrStdin())
	} else {
		in, err = os.ReadFile(file)
	}
	if err != nil {
		return fmt.Errorf("read the manifests: %w", err)
	}
	result, warnings, err := inject.Manifests(in, o)
	if err != nil {
		return finding("inject into %s: %v", file, err)
	}
	for _, w := range warnings {
		fmt.Fprintln(cmd.ErrOrStderr(), "actpass: "+w)
	}
	if out != "-" && out != "" {
		if err := os.WriteFile(out, result, 0o644); err != nil {
			return fmt.Errorf("write the manifests: %w", err)
		}
		return nil
	}
	_, err = cmd.OutOrStdout().Write(result)
	return err
}
