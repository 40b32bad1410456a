{{/* How Prometheus' operator reads the admin port; takes serviceMonitor or podMonitor. */}}
{{- define "redis-gateway.scrape" -}}
{{- if gt (include "redis-gateway.seconds" .scrapeTimeout | int64) (include "redis-gateway.seconds" .interval | int64) }}
{{- fail "serviceMonitor, podMonitor: scrapeTimeout is longer than interval" }}
{{- end -}}
port: admin
interval: {{ .interval }}
scrapeTimeout: {{ .scrapeTimeout }}
relabelings:
  # The name that rules and dashboard know, whatever release, chart and pod are called.
  - targetLabel: job
    replacement: redis-gateway
  # Labels of the gateway's own, which those of its Service would push aside. (honorLabels would not do: a platform may override it.)
  - action: labeldrop
    regex: service|endpoint
{{- end -}}
