{{- define "mailfold.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "mailfold.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- /* What selects a role's pods: (dict "root" $ "role" "gateway"). It may never change. */ -}}
{{- define "mailfold.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .role }}
{{- end -}}

{{- define "mailfold.labels" -}}
{{ include "mailfold.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{- /* A setting's value as text: Helm reads numbers as floats, and 64000000 must not become 6.4e+07. */ -}}
{{- define "mailfold.text" -}}
{{- if and (kindIs "float64" .) (eq . (floor .)) -}}
{{- int64 . -}}
{{- else -}}
{{- . -}}
{{- end -}}
{{- end -}}

{{- define "mailfold.opsPort" -}}
{{- get (dict "gateway" 8031 "worker" 8032 "dispatch" 8033 "project" 8034 "emit" 8035) . -}}
{{- end -}}

{{- /* The environment of a container: (dict "root" $ "role" "gateway" "values" .Values.gateway). Settings without a value
are left to the program's defaults; those of the chart itself come last and win. */ -}}
{{- define "mailfold.env" -}}
{{- $own := dict "MAILFOLD_DATA_DIR" "/data" "MAILFOLD_LOG_FORMAT" "json" -}}
{{- if ne .role "hook" -}}
{{- $_ := set $own "MAILFOLD_OPS_HOST" "0.0.0.0" -}}
{{- $_ := set $own (printf "MAILFOLD_OPS_PORT_%s" (upper .role)) (include "mailfold.opsPort" .role) -}}
{{- end -}}
{{- if eq .role "gateway" -}}
{{- $_ := set $own "MAILFOLD_HOST" "0.0.0.0" -}}
{{- $_ := set $own "MAILFOLD_PORT" "8025" -}}
{{- if .root.Values.gateway.inbound.enabled -}}
{{- $_ := set $own "MAILFOLD_INBOUND_HOST" "0.0.0.0" -}}
{{- $_ := set $own "MAILFOLD_INBOUND_PORT" "2526" -}}
{{- if .root.Values.gateway.inbound.tlsSecret -}}
{{- $_ := set $own "MAILFOLD_INBOUND_CERTIFICATE" "/etc/mailfold/inbound/tls.crt" -}}
{{- $_ := set $own "MAILFOLD_INBOUND_CERTIFICATE_KEY" "/etc/mailfold/inbound/tls.key" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $files := .root.Values.tls.kafka -}}
{{- if $files.secret -}}
{{- range $setting, $key := dict "KAFKA_SSL_CA_FILE" "ca" "KAFKA_SSL_CERTIFICATE_FILE" "certificate" "KAFKA_SSL_KEY_FILE" "key" -}}
{{- with get $files $key -}}
{{- $_ := set $own $setting (printf "/etc/mailfold/kafka/%s" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $values := .values | default dict -}}
{{- $settings := mergeOverwrite (deepCopy .root.Values.settings) (deepCopy ($values.settings | default dict)) $own -}}
{{- $secrets := mergeOverwrite (deepCopy .root.Values.secretSettings) (deepCopy ($values.secretSettings | default dict)) -}}
{{- range $name := keys $settings | sortAlpha }}
{{- $value := include "mailfold.text" (get $settings $name) }}
{{- if ne $value "" }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}
{{- range $name := keys $secrets | sortAlpha }}
{{- $source := get $secrets $name }}
- name: {{ $name }}
  valueFrom:
    secretKeyRef:
{{- if kindIs "map" $source }}
      name: {{ $source.name }}
      key: {{ $source.key }}
{{- else }}
      name: {{ required "existingSecret: the name of a Secret with MAILFOLD_SECRET and DATABASE_URL" $.root.Values.existingSecret }}
      key: {{ $source }}
{{- end }}
{{- end }}
{{- range $name := .root.Values.optionalSecretSettings | sortAlpha }}
{{- if not (or (hasKey $secrets $name) (hasKey $settings $name)) }}
- name: {{ $name }}
  valueFrom:
    secretKeyRef:
      name: {{ $.root.Values.existingSecret }}
      key: {{ $name }}
      optional: true
{{- end }}
{{- end }}
{{- end -}}

{{- /* Where the PEM files of Kafka's and Postgres's TLS are; whole volumes, so that renewed files arrive. */ -}}
{{- define "mailfold.tlsMounts" -}}
{{- range $server := list "kafka" "postgres" }}
{{- if (get $.Values.tls $server).secret }}
- name: {{ $server }}-tls
  mountPath: /etc/mailfold/{{ $server }}
  readOnly: true
{{- end }}
{{- end }}
{{- end -}}

{{- define "mailfold.tlsVolumes" -}}
{{- range $server := list "kafka" "postgres" }}
{{- with (get $.Values.tls $server).secret }}
- name: {{ $server }}-tls
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- end }}
{{- end -}}

{{- define "mailfold.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "mailfold.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "mailfold.scheduling" -}}
{{- with .root.Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* The pod of a role: (dict "root" $ "role" "gateway" "values" .Values.gateway). The worker's /data is a claim. */ -}}
{{- define "mailfold.pod" -}}
metadata:
  labels: {{- include "mailfold.labels" . | nindent 4 }}
{{- with .root.Values.podLabels }}
{{- toYaml . | nindent 4 }}
{{- end }}
{{- with .root.Values.podAnnotations }}
  annotations: {{- toYaml . | nindent 4 }}
{{- end }}
spec:
  serviceAccountName: {{ include "mailfold.name" .root }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  # A role ends within 10 seconds of SIGTERM; a gateway is taken out of the Service first.
  terminationGracePeriodSeconds: 30
  securityContext: {{- include "mailfold.podSecurity" . | nindent 4 }}
{{- include "mailfold.scheduling" . | nindent 2 }}
{{- if .root.Values.topologySpread }}
  topologySpreadConstraints:
{{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
    - topologyKey: {{ $key }}
      maxSkew: 1
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels: {{- include "mailfold.selector" $ | nindent 10 }}
{{- end }}
{{- end }}
  containers:
    - name: {{ .role }}
      image: {{ include "mailfold.image" .root | quote }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy }}
      args: [{{ .role }}]
      env: {{- include "mailfold.env" (dict "root" .root "role" .role "values" .values) | nindent 8 }}
{{- if .values.staticMembership }}
        - name: KAFKA_GROUP_INSTANCE_ID
          valueFrom:
            fieldRef:
              fieldPath: metadata.name
{{- end }}
      ports:
        - name: ops
          containerPort: {{ include "mailfold.opsPort" .role }}
{{- if eq .role "gateway" }}
        - name: http
          containerPort: 8025
{{- if .values.inbound.enabled }}
        - name: smtp
          containerPort: 2526
{{- end }}
      lifecycle:
        preStop:
          # Requests still arrive until every node knows that the pod is ending.
          exec:
            command: [sleep, "5"]
{{- end }}
{{- /* A role waits for Kafka and Postgres at its start; killed for that, it would come back long after them. A gateway
opens its own port when it has reached both. From then on it stays in the Service unless it hangs: without Kafka it still
records opens and clicks and serves the history, and all gateways would be taken out at once. */}}
      startupProbe:
        httpGet: {path: /healthz, port: ops}
        timeoutSeconds: 7
        periodSeconds: 2
        failureThreshold: 60
      livenessProbe:
        httpGet: {path: /healthz, port: ops}
        periodSeconds: 10
        timeoutSeconds: 7
        failureThreshold: 6
      readinessProbe:
        httpGet: {{ eq .role "gateway" | ternary "{path: /healthz, port: http}" "{path: /readyz, port: ops}" }}
        periodSeconds: 10
        timeoutSeconds: 7
      resources: {{- toYaml .values.resources | nindent 8 }}
      securityContext: {{- include "mailfold.containerSecurity" . | nindent 8 }}
      volumeMounts:
        - name: data
          mountPath: /data
        - name: tmp
          mountPath: /tmp
{{- if and (eq .role "gateway") .values.inbound.enabled .values.inbound.tlsSecret }}
        - name: inbound-tls
          mountPath: /etc/mailfold/inbound
          readOnly: true
{{- end }}
{{- with include "mailfold.tlsMounts" .root }}
{{- . | nindent 8 }}
{{- end }}
{{- with .root.Values.extraVolumeMounts }}
{{- toYaml . | nindent 8 }}
{{- end }}
  volumes:
    - name: tmp
      emptyDir:
        sizeLimit: 256Mi
{{- if eq .role "gateway" }}
    - name: data
{{- if .values.spool.existingClaim }}
      persistentVolumeClaim:
        claimName: {{ .values.spool.existingClaim }}
{{- else }}
      emptyDir:
        sizeLimit: {{ .values.spool.sizeLimit }}
{{- end }}
{{- if and .values.inbound.enabled .values.inbound.tlsSecret }}
    - name: inbound-tls
      secret:
        secretName: {{ .values.inbound.tlsSecret }}
        defaultMode: 0440
{{- end }}
{{- else if ne .role "worker" }}
    - name: data
      emptyDir:
        sizeLimit: 64Mi
{{- end }}
{{- with include "mailfold.tlsVolumes" .root }}
{{- . | nindent 4 }}
{{- end }}
{{- with .root.Values.extraVolumes }}
{{- toYaml . | nindent 4 }}
{{- end }}
{{- end -}}
