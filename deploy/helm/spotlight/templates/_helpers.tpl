{{- define "spotlight.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{/* Short enough that "-headless" still fits into a DNS label. */}}
{{- define "spotlight.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "spotlight.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "spotlight.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "spotlight.selectorLabels" -}}
app.kubernetes.io/name: {{ include "spotlight.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "spotlight.labels" -}}
{{ include "spotlight.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "spotlight.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "spotlight.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "spotlight.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Numbers come as float64: 4194304 must not become 4.194304e+06. */}}
{{- define "spotlight.number" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}{{ printf "%.0f" . }}{{- else -}}{{ . }}{{- end -}}
{{- end -}}

{{/* Of time_to_first_token_seconds: the server's own. */}}
{{- define "spotlight.firstTokenBounds" -}}
0.001,0.0025,0.005,0.01,0.02,0.04,0.06,0.08,0.1,0.15,0.2,0.25,0.5,0.75,1,2.5,5,10,20,40,80,160,320
{{- end -}}

{{/* An objective between two bounds would be judged by nothing: the rules' queries find no such series. */}}
{{- define "spotlight.validateFirstToken" -}}
{{- $bounds := include "spotlight.firstTokenBounds" . -}}
{{- range splitList ";" (default "" .server.histogramBuckets) -}}
{{- if eq (trimPrefix "spotlight_" (first (splitList "=" .))) "time_to_first_token_seconds" -}}
{{- $bounds = last (splitList "=" .) -}}
{{- end -}}
{{- end -}}
{{- $found := false -}}
{{- range splitList "," $bounds -}}
{{- if eq (float64 .) (float64 $.prometheusRule.firstToken.seconds) -}}
{{- $found = true -}}
{{- end -}}
{{- end -}}
{{- if not $found -}}
{{- fail (printf "prometheusRule.firstToken.seconds %v is none of the bounds of time_to_first_token_seconds: %s (server.histogramBuckets)" .prometheusRule.firstToken.seconds $bounds) -}}
{{- end -}}
{{- end -}}

{{/* What values cannot say alone; the schema has checked types and ranges. */}}
{{- define "spotlight.validate" -}}
{{- with .Values -}}
{{- if not .model.path -}}
{{- fail "model.path: the checkpoint's folder in the container must be given" -}}
{{- end -}}
{{- $needed := add .preStopSeconds .server.drainSeconds -}}
{{- if lt (int64 .terminationGracePeriodSeconds) $needed -}}
{{- fail (printf "terminationGracePeriodSeconds is %v, but preStopSeconds + server.drainSeconds is %v: streams would be killed while they drain" .terminationGracePeriodSeconds $needed) -}}
{{- end -}}
{{- if .model.volume -}}
{{- if not (hasPrefix (printf "%s/" (trimSuffix "/" .model.mountPath)) .model.path) -}}
{{- fail (printf "model.path %s is not below model.mountPath %s" .model.path .model.mountPath) -}}
{{- end -}}
{{- end -}}
{{- if .model.download.enabled -}}
{{- if not .model.download.repository -}}
{{- fail "model.download.repository must be given when model.download.enabled is set" -}}
{{- end -}}
{{- if not (hasPrefix (printf "%s/" (trimSuffix "/" .model.mountPath)) .model.path) -}}
{{- fail (printf "model.path %s is not below model.mountPath %s, into which model.download writes" .model.path .model.mountPath) -}}
{{- end -}}
{{- end -}}
{{- if and .tls.enabled (not .tls.secretName) -}}
{{- fail "tls.secretName must be given when tls.enabled is set" -}}
{{- end -}}
{{- if and .tls.clientCASecretName (not .tls.enabled) -}}
{{- fail "tls.clientCASecretName asks for client certificates, and tls.enabled is not set" -}}
{{- end -}}
{{- if and .auth.tokensSecretName (not .tls.enabled) -}}
{{- fail "auth.tokensSecretName without tls.enabled would send tokens in plain text" -}}
{{- end -}}
{{- if and .helmTest.tlsSecretName (not .tls.enabled) -}}
{{- fail "helmTest.tlsSecretName has nothing to test: tls.enabled is not set" -}}
{{- end -}}
{{- if and .helmTest.tokenSecretName (not .auth.tokensSecretName) -}}
{{- fail "helmTest.tokenSecretName would send a token that auth.tokensSecretName does not ask for" -}}
{{- end -}}
{{- if and .server.connectionGraceSeconds (not .server.maxConnectionAgeSeconds) -}}
{{- fail "server.connectionGraceSeconds needs server.maxConnectionAgeSeconds" -}}
{{- end -}}
{{- if .prometheusRule.enabled -}}
{{- include "spotlight.validateFirstToken" . -}}
{{- end -}}
{{- if gt (int .autoscaling.minReplicas) (int .autoscaling.maxReplicas) -}}
{{- fail (printf "autoscaling.minReplicas %v is above autoscaling.maxReplicas %v" .autoscaling.minReplicas .autoscaling.maxReplicas) -}}
{{- end -}}
{{- if and .grpcRoute.enabled (not .grpcRoute.parentRefs) -}}
{{- fail "grpcRoute.parentRefs must name a gateway when grpcRoute.enabled is set" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Not empty: the pod is to have a GPU, whole, shared or a slice. */}}
{{- define "spotlight.asksForGpu" -}}
{{- range $kind := list "limits" "requests" -}}
{{- range $name, $count := default dict (get (default dict $.Values.resources) $kind) -}}
{{- if and (hasPrefix "nvidia.com/" $name) (gt (int $count) 0) -}}true{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "spotlight.args" -}}
- --model={{ .Values.model.path }}
{{- with .Values.model.name }}
- --model-name={{ . }}
{{- end }}
- --listen=0.0.0.0:50051
- --http=0.0.0.0:9090
{{- if .Values.tls.enabled }}
- --tls-cert=/etc/spotlight/tls/tls.crt
- --tls-key=/etc/spotlight/tls/tls.key
{{- if .Values.tls.clientCASecretName }}
- --tls-client-ca=/etc/spotlight/client-ca/{{ .Values.tls.clientCAKey }}
{{- end }}
{{- else }}
- --allow-insecure
{{- end }}
{{- with .Values.auth.tokensSecretName }}
- --token-file=/etc/spotlight/tokens/{{ $.Values.auth.tokensKey }}
{{- end }}
{{- if and (kindIs "invalid" .Values.server.device) (include "spotlight.asksForGpu" .) }}
- --device=cuda:0
{{- end }}
{{- range $key, $value := .Values.server }}
{{- if kindIs "bool" $value }}
- --{{ ternary "" "no-" $value }}{{ kebabcase $key }}
{{- else if not (kindIs "invalid" $value) }}
- {{ printf "--%s=%s" (kebabcase $key) (include "spotlight.number" $value) | quote }}
{{- end }}
{{- end }}
{{- range .Values.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end -}}

{{/* The kubelet's gRPC probes speak no TLS: there the HTTP port answers. Argument: dict root, service, path. */}}
{{- define "spotlight.probe" -}}
{{- if .root.Values.tls.enabled -}}
httpGet:
  port: http
  path: {{ .path }}
{{- else -}}
grpc:
  port: 50051
  service: {{ .service }}
{{- end -}}
{{- end -}}

{{- define "spotlight.servicePorts" -}}
- name: grpc
  port: {{ .Values.service.grpcPort }}
  targetPort: grpc
  {{- if not .Values.tls.enabled }}
  appProtocol: kubernetes.io/h2c
  {{- end }}
- name: http
  port: {{ .Values.service.httpPort }}
  targetPort: http
  appProtocol: http
{{- end -}}

{{- define "spotlight.scaling" -}}
scaleUp:
  stabilizationWindowSeconds: 30
  policies:
    - type: Percent
      value: 100
      periodSeconds: 60
scaleDown:
  stabilizationWindowSeconds: {{ .Values.autoscaling.scaleDownSeconds }}
  policies:
    - type: Pods
      value: 1
      periodSeconds: 120
{{- end -}}

{{/* Not empty: `helm test` has a pod. Where clients need a certificate, it needs one of its own. */}}
{{- define "spotlight.hasTest" -}}
{{- if or (not .Values.tls.clientCASecretName) .Values.helmTest.tlsSecretName -}}true{{- end -}}
{{- end -}}

{{/* Of the test's pod; no selector of the servers matches them. */}}
{{- define "spotlight.testLabels" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: helm-test
{{- end -}}

{{- define "spotlight.testFlags" -}}
{{- if .Values.tls.enabled -}}
- --tls-ca=/etc/spotlight/tls/ca.crt
- --tls-server-name={{ default (include "spotlight.fullname" .) .Values.helmTest.serverName }}
{{- if .Values.tls.clientCASecretName }}
- --tls-cert=/etc/spotlight/tls/tls.crt
- --tls-key=/etc/spotlight/tls/tls.key
{{- end }}
{{- end -}}
{{- end -}}

{{- define "spotlight.testContainer" -}}
image: {{ include "spotlight.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
command: [/opt/spotlight/bin/spotlight]
securityContext: {{- toYaml .Values.securityContext | nindent 2 }}
resources:
  requests: {cpu: 50m, memory: 64Mi}
  limits: {memory: 256Mi}
{{- if or .Values.tls.enabled .Values.helmTest.tokenSecretName }}
volumeMounts:
  {{- if .Values.tls.enabled }}
  - {name: tls, mountPath: /etc/spotlight/tls, readOnly: true}
  {{- end }}
  {{- if .Values.helmTest.tokenSecretName }}
  - {name: token, mountPath: /etc/spotlight/token, readOnly: true}
  {{- end }}
{{- end }}
{{- end -}}
