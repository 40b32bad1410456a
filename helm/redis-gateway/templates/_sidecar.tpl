{{/*
For charts that depend on this one with `mode: sidecar`; docs/operations.md shows a pod with all four. Each takes the context
of this chart, which is `index .Subcharts "redis-gateway"` in the chart that depends on it.
*/}}

{{/* Goes into initContainers: starts before the pod's containers, and drains after their end. */}}
{{- define "redis-gateway.sidecar.container" -}}
{{ include "redis-gateway.container" . }}
  - name: redis-gateway-socket
    mountPath: {{ dir .Values.sidecar.socket }}
restartPolicy: Always
startupProbe:
  {{- include "redis-gateway.probe" (dict "path" "/livez") | nindent 2 }}
  periodSeconds: 1
  failureThreshold: 60
livenessProbe:
  {{- include "redis-gateway.probe" (dict "path" "/livez") | nindent 2 }}
{{- end -}}

{{/* Goes into the pod's volumes. */}}
{{- define "redis-gateway.sidecar.volumes" -}}
{{ include "redis-gateway.volumes" . }}
- name: redis-gateway-socket
  emptyDir:
    medium: Memory
    sizeLimit: 1Mi
{{- end -}}

{{/* Goes into the volumeMounts of a container that calls the gateway. */}}
{{- define "redis-gateway.sidecar.volumeMount" -}}
- name: redis-gateway-socket
  mountPath: {{ dir .Values.sidecar.socket }}
  readOnly: true
{{- end -}}

{{/* Goes into the pod's annotations, so that a change of the configuration makes new pods. */}}
{{- define "redis-gateway.sidecar.annotations" -}}
checksum/redis-gateway-config: {{ include "redis-gateway.checksum" . }}
{{- end -}}
