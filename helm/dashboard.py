"""Prints the dashboard for Grafana, from the tables below: `python3 helm/dashboard.py > helm/redis-gateway/files/dashboard.json`.

A new metric gets a panel by a line here. All that is shown is narrowed to what is chosen at the top.
"""

import json
import re

RATE = "[$__rate_interval]"


def rate(metric, by, legend=None):
    return f"sum by ({by}) (rate({metric}{RATE}))", legend or " ".join(f"{{{{{label}}}}}" for label in by.split(", "))


def total(metric, by, how="sum"):
    return f"{how} by ({by}) ({metric})", " ".join(f"{{{{{label}}}}}" for label in by.split(", "))


def quantiles(metric, by, labels=""):
    """The median and the slowest of a hundred."""
    legend = " ".join(f"{{{{{label}}}}}" for label in by.split(", ") if label != "le")
    grouped = f"sum by ({by}) (rate({metric}_bucket{labels}{RATE}))"
    return [(f"histogram_quantile({q}, {grouped})", f"{legend} p{q * 100:.0f}".strip()) for q in (0.5, 0.99)]


def gateway(name):
    return f"redis_gateway_{name}"


SERVICE = '{service="$service"}'
OF_SERVICE = [
    ("Calls", "ops", [rate(gateway(f"rpc_requests_total{SERVICE}"), "method, code")]),
    ("Failures", "ops", [rate(gateway(f"rpc_failures_total{SERVICE}"), "reason")]),
    ("Degraded answers", "ops", [rate(gateway(f"rpc_degraded_total{SERVICE}"), "method, reason")]),
    ("Latency", "s", quantiles(gateway("rpc_duration_seconds"), "method, le", SERVICE)),
    ("In flight", "short", [total(gateway(f"rpc_in_flight{SERVICE}"), "method")]),
]
GLANCE = [
    ("Gateways that answer", "short", [('sum(up{job="redis-gateway"})', "gateways")]),
    ("Alerts", "short", [total('ALERTS{alertname=~"RedisGateway.*", alertstate="firing"}', "severity, alertname", "count")]),
    ("Services that serve", "bool", [total(gateway("serving"), "service", "min")]),
    ("Versions", "short", [total(gateway("build_info"), "version", "count"), (f"sum({gateway('draining')})", "draining")]),
    ("Calls", "ops", [rate(gateway("rpc_requests_total"), "service")]),
    ("Failures", "ops", [rate(gateway("rpc_failures_total"), "service, reason")]),
    ("Degraded answers", "ops", [rate(gateway("rpc_degraded_total"), "service, reason")]),
    ("Latency of calls that do not wait", "s", quantiles(gateway("rpc_duration_seconds"), "service, le", '{method!~"Acquire|GetOrLease"}')),
]
AT = '{endpoint=~"$endpoint"}'
REDIS = [
    ("Reachable", "bool", [total(gateway(f"redis_up{AT}"), "endpoint, server", "min")]),
    ("Commands", "ops", [rate(gateway(f"redis_commands_total{AT}"), "endpoint, outcome")]),
    ("Latency of commands", "s", quantiles(gateway("redis_command_duration_seconds"), "endpoint, server, le", AT)),
    ("Commands in flight", "short", [total(gateway(f"redis_in_flight{AT}"), "endpoint, server")]),
    ("Connections replaced", "ops", [rate(gateway(f"redis_connections_replaced_total{AT}"), "endpoint, server, cause")]),
    ("Subscriptions lost", "ops", [rate(gateway(f"redis_subscriptions_lost_total{AT}"), "endpoint")]),
    ("Attempts to connect that failed", "ops", [rate(gateway(f"redis_connect_failures_total{AT}"), "endpoint, server")]),
    ("Lag of replicas", "s", [total(f"time() - {gateway(f'redis_replica_current_timestamp_seconds{AT}')}", "endpoint, server", "max")]),
    ("Lag of replicas in bytes", "bytes", [total(gateway(f"redis_replica_lag_bytes{AT}"), "endpoint, server", "max")]),
    ("Reads by server and reason", "ops", [rate(gateway(f"redis_reads_total{AT}"), "endpoint, server, reason")]),
    ("Redirects of a Cluster", "ops", [rate(gateway(f"redis_redirects_total{AT}"), "endpoint, kind")]),
    ("Scripts run", "ops", [rate(gateway(f"redis_script_runs_total{AT}"), "endpoint, server")]),
    ("Scripts loaded", "ops", [rate(gateway(f"redis_script_loads_total{AT}"), "endpoint, server")]),
]
CACHE = [
    ("Reads from memory", "ops", [rate(gateway("cache_near_reads_total"), "outcome")]),
    ("Values in memory", "short", [total(gateway("cache_near_entries"), "instance")]),
    ("Memory of values", "bytes", [total(gateway("cache_near_bytes"), "instance")]),
    ("Told of changes", "bool", [total(gateway("cache_near_tracking_up"), "instance", "min")]),
    ("Changes and evictions", "ops", [rate(gateway("cache_near_invalidations_total"), "instance", "{{instance}} changes"),
                                      rate(gateway("cache_near_evictions_total"), "instance", "{{instance}} evictions")]),
    ("Leases", "ops", [rate(gateway("cache_leases_total"), "event")]),
    ("Waits after a miss", "ops", [rate(gateway("cache_waits_total"), "outcome")]),
    ("Time of these waits", "s", quantiles(gateway("cache_wait_seconds"), "le")),
    ("Calls that wait", "short", [total(gateway("cache_waiting"), "instance")]),
]
LOGS = [
    ("Tails and the builds that they follow", "short", [(f"sum({gateway('build_logs_tails')})", "tails"),
                                                        (f"sum({gateway('build_logs_followed')})", "builds")]),
    ("Looks at logs", "ops", [rate(gateway("build_logs_look_seconds_count"), "instance")]),
    ("Time of a look", "s", quantiles(gateway("build_logs_look_seconds"), "le")),
    ("Resets", "ops", [rate(gateway("build_logs_resets_total"), "cause")]),
]
PULLS = [
    ("Pulls, and what Redis is asked for", "ops", [rate(gateway("pull_metrics_pulls_total"), "mode"),
                                                   (f"sum(rate({gateway('pull_metrics_writes_total')}{RATE}))", "writes to Redis")]),
    ("Buffered pulls", "short", [total(gateway("pull_metrics_buffer_pulls"), "instance")]),
    ("Memory of the buffer", "bytes", [total(gateway("pull_metrics_buffer_bytes"), "instance"),
                                       (f"max({gateway('pull_metrics_buffer_limit_bytes')})", "limit")]),
    ("Ends of buffered pulls", "ops", [rate(gateway("pull_metrics_buffered_total"), "outcome")]),
    ("Claims", "ops", [rate(gateway("pull_metrics_claims_total"), "event")]),
    ("Open claims", "short", [total(gateway("pull_metrics_open_claims"), "instance")]),
    ("Keys claimed", "ops", [rate(gateway("pull_metrics_claimed_keys_total"), "kind")]),
    ("Keys that add nothing", "ops", [rate(gateway("pull_metrics_dropped_keys_total"), "reason")]),
    ("Keys that a claim has lost", "ops", [rate(gateway("pull_metrics_lost_keys_total"), "instance")]),
]
EVENTS = [
    ("Events to be published", "ops", [rate(gateway("user_events_published_total"), "outcome")]),
    ("Listeners and their channels", "short", [(f"sum({gateway('user_events_listeners')})", "listeners"),
                                               (f"sum({gateway('user_events_channels')})", "channels")]),
    ("Events", "ops", [(f"sum(rate({gateway('user_events_delivered_total')}{RATE}))", "delivered"),
                       (f"sum(rate({gateway('user_events_dropped_total')}{RATE}))", "dropped")]),
    ("Gaps", "ops", [rate(gateway("user_events_gaps_total"), "cause")]),
]
ORCHESTRATOR = [
    ("Watches", "short", [total(gateway("orchestrator_watches"), "instance")]),
    ("Gaps", "ops", [rate(gateway("orchestrator_gaps_total"), "cause")]),
    ("Redis tells of expirations", "bool", [total(gateway("orchestrator_keyspace_notifications >= 0"), "instance", "min")]),
    ("Expirations that are known", "short", [total(gateway("orchestrator_dues"), "instance")]),
    ("Expiries", "ops", [(f"sum(rate({gateway(f'orchestrator_expiries_{what}_total')}{RATE}))", what.replace("_", " "))
                         for what in ("claimed", "given_again", "acknowledged")]),
    ("Looks at all keys", "ops", [rate(gateway("orchestrator_looks_total"), "instance")]),
]
LOCKS = [
    ("Waiting and held", "short", [(f"sum({gateway('locks_waiting')})", "waiting"), (f"sum({gateway('locks_held')})", "kept for streams")]),
    ("Longest wait", "s", [total(gateway("locks_longest_wait_seconds"), "instance", "max")]),
    ("Locks asked for", "ops", [rate(gateway("locks_acquires_total"), "outcome")]),
    ("Locks lost", "ops", [rate(gateway("locks_lost_total"), "cause")]),
    ("From a wake-up to the lock", "s", quantiles(gateway("locks_hand_over_seconds"), "le")),
    ("Wake-ups handed on", "ops", [rate(gateway("locks_wake_ups_handed_on_total"), "instance")]),
]
PROCESS = [
    ("Memory", "bytes", [total('process_resident_memory_bytes{job="redis-gateway"}', "instance"),
                         (f"min({gateway('memory_limit_bytes')})", "limit")]),
    ("CPU", "percentunit", [rate('process_cpu_seconds_total{job="redis-gateway"}', "instance")]),
    ("File descriptors", "short", [total('process_open_fds{job="redis-gateway"}', "instance"),
                                   ('min(process_max_fds{job="redis-gateway"})', "limit")]),
    ("Threads", "short", [total('process_threads{job="redis-gateway"}', "instance")]),
    ("Time since the start", "s", [('time() - max by (instance) (process_start_time_seconds{job="redis-gateway"})', "{{instance}}")]),
]
ROWS = [
    ("All gateways", GLANCE), ("$service", OF_SERVICE), ("Redis", REDIS), ("Build logs", LOGS), ("Cache", CACHE),
    ("Pull metrics", PULLS), ("User events", EVENTS), ("Orchestrator", ORCHESTRATOR), ("Locks", LOCKS), ("Process", PROCESS),
]  # fmt: skip


def narrowed(expression):
    """The expression for the gateways that are chosen; a namespace is unknown where Prometheus runs outside of Kubernetes."""

    def selector(found):
        own = found[2] or ""
        # Some alerts are of no instance, and one of no namespace.
        chosen = 'namespace=~"$namespace|"' if found[1] == "ALERTS" else 'namespace=~"$namespace", instance=~"$instance"'
        return f"{found[1]}{{{own}{', ' if own else ''}{chosen}}}"

    return re.sub(r"\b((?:redis_gateway|process)_\w+|up|ALERTS)(?:\{(.*?)\})?", selector, expression)


def variable(name, query, **more):
    return {
        "name": name, "label": name, "type": "query", "datasource": {"type": "prometheus", "uid": "$datasource"},
        "query": {"query": query, "refId": name}, "refresh": 2, "sort": 1, "includeAll": True, "multi": True,
        "current": {"text": "All", "value": "$__all"}, **more,
    }  # fmt: skip


def panel(number, at, title, unit, queries):
    field = {"unit": "bool_yes_no" if unit == "bool" else unit, "min": 0, "custom": {"fillOpacity": 10, "showPoints": "never"}}
    options = {
        "tooltip": {"mode": "multi", "sort": "desc"},
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
    }
    targets = [{"refId": chr(65 + n), "expr": narrowed(expr), "legendFormat": legend} for n, (expr, legend) in enumerate(queries)]
    return {
        "id": number, "title": title, "type": "timeseries", "gridPos": at, "datasource": {"type": "prometheus", "uid": "$datasource"},
        "fieldConfig": {"defaults": field, "overrides": []}, "options": options, "targets": targets,
    }  # fmt: skip


def panels():
    """A row of four, under its title."""
    number = y = 0
    for title, row in ROWS:
        number += 1
        head = {"id": number, "title": title, "type": "row", "collapsed": False, "panels": [], "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}}
        yield head | ({"repeat": "service"} if title == "$service" else {})
        for n, (name, unit, queries) in enumerate(row):
            number += 1
            yield panel(number, {"x": n % 4 * 6, "y": y + 1 + n // 4 * 7, "w": 6, "h": 7}, name, unit, queries)
        y += 1 + (len(row) + 3) // 4 * 7


def dashboard():
    """Its text: a line for each panel, so that a change of it can be read."""
    of = f"label_values({gateway('build_info')}"
    variables = [
        {"name": "datasource", "label": "data source", "type": "datasource", "query": "prometheus"},
        variable("namespace", f"{of}, namespace)", allValue=".*"),
        variable("instance", f'{of}{{namespace=~"$namespace"}}, instance)', allValue=".*"),
        variable("endpoint", f"label_values({gateway('redis_up')}, endpoint)", allValue=".*"),
        variable("service", f'label_values({gateway("rpc_requests_total")}{{service!~"unknown|grpc.*"}}, service)'),
    ]
    head = {
        "uid": "redis-gateway", "title": "redis-gateway", "tags": ["redis-gateway"], "schemaVersion": 39, "editable": False,
        "graphTooltip": 1, "refresh": "30s", "time": {"from": "now-3h", "to": "now"}, "templating": {"list": variables},
        "annotations": {"list": []},
    }  # fmt: skip
    lines = ",\n".join(f"  {json.dumps(panel)}" for panel in panels())
    return f'{json.dumps(head)[:-1]},\n"panels": [\n{lines}\n]}}\n'


if __name__ == "__main__":
    print(dashboard(), end="")
