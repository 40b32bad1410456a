{{- define "redis-gateway.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* 54 of the 63 characters that a name may have: the longest suffix has nine. */}}
{{- define "redis-gateway.fullname" -}}
{{- $name := include "redis-gateway.name" . -}}
{{- $made := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- default $made .Values.fullnameOverride | trunc 54 | trimSuffix "-" -}}
{{- end -}}

{{- define "redis-gateway.selectorLabels" -}}
app.kubernetes.io/name: {{ include "redis-gateway.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "redis-gateway.labels" -}}
{{ include "redis-gateway.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* An object's metadata; `dict "at" $ "name" NAME` with more labels and annotations where there are some. */}}
{{- define "redis-gateway.metadata" -}}
metadata:
  name: {{ .name | default (include "redis-gateway.fullname" .at) }}
  namespace: {{ .at.Release.Namespace }}
  labels:
    {{- include "redis-gateway.labels" .at | nindent 4 }}
    {{- with .labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{- define "redis-gateway.serviceAccountName" -}}
{{- $default := .Values.serviceAccount.create | ternary (include "redis-gateway.fullname" .) "default" -}}
{{- default $default .Values.serviceAccount.name -}}
{{- end -}}

{{- define "redis-gateway.image" -}}
{{- $repository := required "image.repository is required: say where the image is; the chart has no default" .Values.image.repository -}}
{{- if .Values.image.digest -}}
{{ $repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ $repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}
