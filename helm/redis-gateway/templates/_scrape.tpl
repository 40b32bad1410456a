{{/* How Prometheus' operator reads the admin port; takes serviceMonitor or podMonitor. */}}
{{- define "redis-gateway.scrape" -}}
port: admin
# service and endpoint are labels of the gateway's own: what Prometheus knows under these names must not push them aside.
honorLabels: true
interval: {{ .interval }}
scrapeTimeout: {{ .scrapeTimeout }}
relabelings:
  # The name that rules and dashboard know, whatever release, chart and pod are called.
  - targetLabel: job
    replacement: redis-gateway
{{- end -}}
