{{- /* A sidecar in pods of its own: a StatefulSet (or a Deployment, whose volume is the pod's), its Service and its configuration. */}}
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
kind: {{ ternary "Deployment" "StatefulSet" (default false .deployment) }}
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
  labels: {{- include "actpass.labels" $root | nindent 4 }}
spec:
  {{- if not .deployment }}
  serviceName: {{ $name }}
  {{- end }}
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
      {{- if .deployment }}
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels:
              {{- include "actpass.selector" $root | nindent 14 }}
              app.kubernetes.io/component: {{ .component }}
      {{- end }}
      containers:
        - name: actpass
          image: {{ include "actpass.image" $root }}
          imagePullPolicy: {{ $root.Values.image.pullPolicy }}
          args: {{ toJson .args }}
          env:
            - { name: ACTPASS_CONFIG, value: /etc/actpass/config.yaml }
            - { name: ACTPASS_DATA_DIR, value: /data/actpass } # made by the sidecar, and so its own with mode 0700
            - { name: ACTPASS_LISTEN_API, value: "0.0.0.0:8090" }
            - { name: ACTPASS_LISTEN_PROXY, value: {{ ternary "0.0.0.0:8080" "off" .doors | quote }} }
            - { name: ACTPASS_LISTEN_REVERSE, value: {{ ternary "0.0.0.0:8081" "off" .doors | quote }} }
            - { name: TMPDIR, value: /data }
            {{- if and .doors $root.Values.sidecar.caSecret }}
            - { name: ACTPASS_CA_CERT_FILE, value: /etc/actpass-ca/tls.crt }
            - { name: ACTPASS_CA_KEY_FILE, value: /etc/actpass-ca/tls.key }
            {{- end }}
            {{- if $root.Values.store.secret }}
            - { name: ACTPASS_STORE_DRIVER, value: postgres }
            - { name: ACTPASS_STORE_DSN_FILE, value: /etc/actpass-store/dsn }
            - { name: ACTPASS_STORE_KEY_FILE, value: /etc/actpass-store/key }
            {{- end }}
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
            {{- if and .doors $root.Values.sidecar.caSecret }}
            - { name: ca, mountPath: /etc/actpass-ca, readOnly: true }
            {{- end }}
            {{- if $root.Values.store.secret }}
            - { name: store, mountPath: /etc/actpass-store, readOnly: true }
            {{- end }}
      volumes:
        - name: config
          configMap: { name: {{ $name }} }
        {{- if and .doors $root.Values.sidecar.caSecret }}
        - name: ca
          secret: { secretName: {{ $root.Values.sidecar.caSecret }} }
        {{- end }}
        {{- if $root.Values.store.secret }}
        - name: store
          secret: { secretName: {{ $root.Values.store.secret }} }
        {{- end }}
  {{- if .deployment }}
        - { name: data, emptyDir: {} }
  {{- else }}
  volumeClaimTemplates:
    - metadata: { name: data }
      spec:
        accessModes: [ReadWriteOnce]
        {{- with .storageClassName }}
        storageClassName: {{ . }}
        {{- end }}
        resources: { requests: { storage: {{ .storage }} } }
  {{- end }}
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
