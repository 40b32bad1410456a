{{/* The gateway's file: `config`, and what the chart knows better. */}}
{{- define "redis-gateway.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- include "redis-gateway.checkConfig" . -}}
{{- $address := contains ":" .Values.listenAddress | ternary (printf "[%s]" .Values.listenAddress) .Values.listenAddress -}}
{{- $grpc := printf "%s:%v" $address .Values.ports.grpc -}}
{{- if eq .Values.mode "sidecar" -}}
{{- $grpc = printf "unix:%s" .Values.sidecar.socket -}}
{{- end -}}
{{- $set := dict "grpc.listen" $grpc "admin.listen" (printf "%s:%v" $address .Values.ports.admin) -}}
{{- $_ := set $set "drain.delay" (include "redis-gateway.drain.delay" .) -}}
{{- $_ := set $set "drain.timeout" (include "redis-gateway.drain.timeout" .) -}}
{{- range $path, $_ := .Values.secretFiles -}}
{{- $_ := set $set $path (printf "/etc/redis-gateway/files/%s" $path) -}}
{{- end -}}
{{- range $path, $value := $set -}}
{{- $at := $config -}}
{{- $names := splitList "." $path -}}
{{- range initial $names -}}
{{- if not (kindIs "map" (get $at .)) -}}
{{- $_ := set $at . dict -}}
{{- end -}}
{{- $at = get $at . -}}
{{- end -}}
{{- $_ := set $at (last $names) $value -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{/* What would start and not do what was meant. The gateway itself tells the rest. */}}
{{- define "redis-gateway.checkConfig" -}}
{{- if not (or .Values.config.endpoints .Values.quayConfig.secret) -}}
{{- fail "config.endpoints is required, or quayConfig.secret: say where Redis is; the image has no server for the embedded default" -}}
{{- end -}}
{{- range $name, $endpoint := .Values.config.endpoints -}}
{{- if hasKey (default dict $endpoint) "password" -}}
{{- fail (printf "config.endpoints.%s.password: passwords do not belong into values: name a Secret's key in secretFiles, under endpoints.%s.password_file" $name $name) -}}
{{- end -}}
{{- end -}}
{{- if or (.Values.config.grpc | default dict).listen (.Values.config.admin | default dict).listen -}}
{{- fail "config: the chart sets grpc.listen and admin.listen: use listenAddress, ports and sidecar.socket" -}}
{{- end -}}
{{- if and .Values.serviceMonitor.enabled (eq .Values.mode "sidecar") -}}
{{- fail "serviceMonitor: sidecars have no service: use podMonitor" -}}
{{- end -}}
{{- if and .Values.podMonitor.enabled (eq .Values.mode "deployment") -}}
{{- fail "podMonitor: it is for sidecars: use serviceMonitor" -}}
{{- end -}}
{{- if eq (int .Values.ports.grpc) (int .Values.ports.admin) -}}
{{- fail "ports: grpc and admin are the same: each needs a port of its own" -}}
{{- end -}}
{{- range $path, $from := .Values.secretFiles -}}
{{- if eq (empty $from.secret) (empty $from.configMap) -}}
{{- fail (printf "secretFiles: %s: name a secret or a configMap, and one of its keys" $path) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Behind a service, endpoints are told late that a pod ends; beside its callers, there is nobody to tell. */}}
{{- define "redis-gateway.drain.delay" -}}
{{- (.Values.config.drain | default dict).delay | default (eq .Values.mode "sidecar" | ternary "0s" "5s") -}}
{{- end -}}

{{- define "redis-gateway.drain.timeout" -}}
{{- (.Values.config.drain | default dict).timeout | default "20s" -}}
{{- end -}}

{{/* A duration of the gateway's, in whole seconds, rounded up. */}}
{{- define "redis-gateway.seconds" -}}
{{- $number := regexFind "^[0-9]+" . | int64 -}}
{{- $millis := get (dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000) (regexFind "[a-z]+$" .) -}}
{{- div (add (mul $number $millis) 999) 1000 -}}
{{- end -}}

{{/* How long the gateway may take to end, in seconds: both parts of the drain, and 15 for what comes after, such as traces. */}}
{{- define "redis-gateway.gracePeriod" -}}
{{- $delay := include "redis-gateway.drain.delay" . | include "redis-gateway.seconds" | int64 -}}
{{- $timeout := include "redis-gateway.drain.timeout" . | include "redis-gateway.seconds" | int64 -}}
{{- add $delay $timeout 15 -}}
{{- end -}}

{{- define "redis-gateway.checksum" -}}
{{- include "redis-gateway.config" . | sha256sum -}}
{{- end -}}
