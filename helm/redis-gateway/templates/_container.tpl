{{/* What the gateway's container is in either mode. */}}
{{- define "redis-gateway.container" -}}
name: redis-gateway
image: {{ include "redis-gateway.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args:
  - --config=/etc/redis-gateway/config/gateway.yaml
  {{- if .Values.quayConfig.secret }}
  - --quay-config=/etc/redis-gateway/quay/config.yaml
  {{- end }}
ports:
  {{- if eq .Values.mode "deployment" }}
  - name: grpc
    containerPort: {{ .Values.ports.grpc }}
  {{- end }}
  - name: admin
    containerPort: {{ .Values.ports.admin }}
{{- with .Values.extraEnv }}
env:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml .Values.securityContext | nindent 2 }}
volumeMounts:
  # Folders, not single files: what changes in a Secret reaches a running pod only so.
  - name: redis-gateway-config
    mountPath: /etc/redis-gateway/config
    readOnly: true
  {{- if .Values.secretFiles }}
  - name: redis-gateway-files
    mountPath: /etc/redis-gateway/files
    readOnly: true
  {{- end }}
  {{- if .Values.quayConfig.secret }}
  - name: redis-gateway-quay
    mountPath: /etc/redis-gateway/quay
    readOnly: true
  {{- end }}
  {{- with .Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* Readable by all, since the platform may choose the user; only the gateway's container mounts them. */}}
{{- define "redis-gateway.volumes" -}}
- name: redis-gateway-config
  configMap:
    name: {{ include "redis-gateway.fullname" . }}
{{- if .Values.secretFiles }}
- name: redis-gateway-files
  projected:
    defaultMode: 0444
    sources:
      {{- range $path, $from := .Values.secretFiles }}
      - {{ empty $from.secret | ternary "configMap" "secret" }}:
          name: {{ $from.secret | default $from.configMap }}
          items:
            - key: {{ $from.key | quote }}
              path: {{ $path }}
      {{- end }}
{{- end }}
{{- with .Values.quayConfig }}
{{- if .secret }}
- name: redis-gateway-quay
  secret:
    secretName: {{ .secret }}
    defaultMode: 0444
    items:
      - key: {{ .key | quote }}
        path: config.yaml
{{- end }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* One request of a probe: over gRPC for a service's name, over HTTP for a path. */}}
{{- define "redis-gateway.probe" -}}
{{- if eq (default "http" .type) "grpc" -}}
grpc:
  port: {{ .port }}
  {{- with .service }}
  service: {{ . }}
  {{- end }}
{{- else -}}
httpGet:
  path: {{ .path }}
  port: admin
{{- end }}
timeoutSeconds: 3
{{- end -}}
