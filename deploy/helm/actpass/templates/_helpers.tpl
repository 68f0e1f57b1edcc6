{{- define "actpass.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "actpass.configMap" -}}
{{ .Values.sidecar.configMap | default (ternary "actpass-sidecar" "" (gt (len .Values.sidecar.namespaces) 0)) }}
{{- end }}

{{- define "actpass.labels" -}}
app.kubernetes.io/name: actpass
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "actpass.selector" -}}
app.kubernetes.io/name: actpass
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "actpass.containerSecurity" -}}
runAsUser: 65532
runAsGroup: 65532
runAsNonRoot: true
readOnlyRootFilesystem: true
allowPrivilegeEscalation: false
capabilities: { drop: [ALL] }
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "actpass.probes" -}}
startupProbe:
  httpGet: { path: /readyz, port: api }
  periodSeconds: 1
  failureThreshold: 60
readinessProbe:
  httpGet: { path: /readyz, port: api }
  periodSeconds: 5
livenessProbe:
  httpGet: { path: /healthz, port: api }
  periodSeconds: 10
  failureThreshold: 6
{{- end }}
