{{- /* A sidecar in pods of its own: a StatefulSet, its Services and its configuration. */}}
{{- define "actpass.standalone" }}
{{- $root := .root }}
{{- $name := printf "%s-%s" $root.Release.Name .component }}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
  labels: {{- include "actpass.labels" $root | nindent 4 }}
automountServiceAccountToken: false
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
  labels: {{- include "actpass.labels" $root | nindent 4 }}
data:
  config.yaml: |
    {{- .config | nindent 4 }}
  {{- range $file, $text := .policies }}
  policy-{{ $file }}.yaml: |
    {{- $text | nindent 4 }}
  {{- end }}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "actpass.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
spec:
  selector:
    {{- include "actpass.selector" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
  ports:
    - { name: api, port: 8090, targetPort: api, protocol: TCP }
    {{- if .doors }}
    - { name: proxy, port: 8080, targetPort: proxy, protocol: TCP }
    - { name: reverse, port: 8081, targetPort: reverse, protocol: TCP }
    {{- end }}
---
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
  labels: {{- include "actpass.labels" $root | nindent 4 }}
spec:
  serviceName: {{ $name }}
  replicas: {{ .replicas }}
  selector:
    matchLabels:
      {{- include "actpass.selector" $root | nindent 6 }}
      app.kubernetes.io/component: {{ .component }}
  template:
    metadata:
      labels:
        {{- include "actpass.labels" $root | nindent 8 }}
        app.kubernetes.io/component: {{ .component }}
    spec:
      serviceAccountName: {{ $name }}
      automountServiceAccountToken: false
      {{- with $root.Values.imagePullSecrets }}
      imagePullSecrets: {{- toYaml . | nindent 8 }}
      {{- end }}
      terminationGracePeriodSeconds: 45 # calls under way get 30 seconds
      securityContext: { fsGroup: 65532 }
      containers:
        - name: actpass
          image: {{ include "actpass.image" $root }}
          imagePullPolicy: {{ $root.Values.image.pullPolicy }}
          args: [serve]
          env:
            - { name: ACTPASS_CONFIG, value: /etc/actpass/config.yaml }
            - { name: ACTPASS_DATA_DIR, value: /data/actpass } # made by the sidecar, and so its own with mode 0700
            - { name: ACTPASS_LISTEN_API, value: "0.0.0.0:8090" }
            - { name: ACTPASS_LISTEN_PROXY, value: {{ ternary "0.0.0.0:8080" "off" .doors | quote }} }
            - { name: ACTPASS_LISTEN_REVERSE, value: {{ ternary "0.0.0.0:8081" "off" .doors | quote }} }
            - { name: TMPDIR, value: /data }
          ports:
            - { name: api, containerPort: 8090, protocol: TCP }
            {{- if .doors }}
            - { name: proxy, containerPort: 8080, protocol: TCP }
            - { name: reverse, containerPort: 8081, protocol: TCP }
            {{- end }}
          {{- include "actpass.probes" $root | nindent 10 }}
          resources: {{- toYaml .resources | nindent 12 }}
          securityContext: {{- include "actpass.containerSecurity" $root | nindent 12 }}
          volumeMounts:
            - { name: data, mountPath: /data }
            - { name: config, mountPath: /etc/actpass, readOnly: true }
      volumes:
        - name: config
          configMap: { name: {{ $name }} }
  volumeClaimTemplates:
    - metadata: { name: data }
      spec:
        accessModes: [ReadWriteOnce]
        {{- with .storageClassName }}
        storageClassName: {{ . }}
        {{- end }}
        resources: { requests: { storage: {{ .storage }} } }
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
  labels: {{- include "actpass.labels" $root | nindent 4 }}
spec:
  maxUnavailable: 1
  selector:
    matchLabels:
      {{- include "actpass.selector" $root | nindent 6 }}
      app.kubernetes.io/component: {{ .component }}
{{- end }}
