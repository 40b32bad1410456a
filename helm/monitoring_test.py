"""Judges what watches the gateway: rules, dashboard and runbook, by a Prometheus that scrapes gateways in health and in trouble.

A minute of the rules lasts half a second here. What is called `calm` is well throughout, and nothing may fire for it; what is
called `faulty` goes through all that can be made in such a time, and promtool checks the rest.
"""

import contextlib
import functools
import json
import math
import re
import shutil
import subprocess
import tempfile
import time
import unittest
import urllib.parse
import urllib.request
from pathlib import Path

import yaml

import dashboard
import faults
import traffic

HERE = Path(__file__).parent
CHART = HERE / "redis-gateway"
MINUTE = 500  # milliseconds
INTERVAL = 500  # milliseconds between two looks of Prometheus
LONGEST_RANGE = 15 * MINUTE / 1000  # seconds that a rule looks back for what the next line is about
# What a machine that is too busy may be the reason of, too.
OF_TIME = {f"RedisGateway{name}" for name in ("Down", "RedisDown", "CannotWrite", "CallsSlow", "RedisTimesOut", "ConnectionsFlap")}
# Counters that nobody here counts by, or not for each service.
QUIET = re.compile("rpc_(failures|degraded)_total|redis_redirects_total|build_logs_resets_total|cache_near_evictions_total")
LABEL = re.compile(r"\{\{ *\$labels\.(\w+)")


def text_of_rules(**values):
    """The rules as the chart renders them, with its own values unless others are given."""
    text = (CHART / "files/rules.yaml").read_text()
    for name, value in (yaml.safe_load((CHART / "values.yaml").read_text())["prometheusRule"] | values).items():
        text = text.replace(f"%{name}%", str(value))
    return text


@functools.cache
def rules():
    return {rule["alert"]: rule for group in yaml.safe_load(text_of_rules())["groups"] for rule in group["rules"]}


def scaled(text):
    """Times of the rules, shortened."""
    short = lambda found: f"{found[1]}{int(found[2]) * MINUTE * (60 if found[3] == 'h' else 1)}ms"  # noqa: E731
    return re.sub(r"(for: |\[)(\d+)([mh])\b", short, text)


class Prometheus(traffic.Process):
    """A Prometheus that scrapes gateways, each with a namespace of its own, as an operator would give it."""

    def __init__(self, folder, gateways):
        (folder / "rules.yaml").write_text(scaled(text_of_rules(latencySeconds=1.5, replicaLagSeconds=5)))
        targets = [{"targets": [gateway.admin], "labels": {"namespace": space}} for space, gateway in gateways]
        job = {"job_name": "redis-gateway", "honor_labels": True, "static_configs": targets}
        often = dict.fromkeys(["scrape_interval", "scrape_timeout", "evaluation_interval"], f"{INTERVAL}ms")
        config = folder / "prometheus.yaml"
        config.write_text(yaml.safe_dump({"global": often, "rule_files": ["rules.yaml"], "scrape_configs": [job]}))
        self.address, self.since = f"127.0.0.1:{traffic.free_port()}", time.time()
        where = [f"--storage.tsdb.path={folder / 'prometheus'}", f"--web.listen-address={self.address}", "--log.level=warn"]
        super().__init__(folder, "prometheus", shutil.which("prometheus"), f"--config.file={config}", *where)
        self.until(lambda: len(self.ask("query", query="up == 1")["result"]) == len(targets))

    def ask(self, what, **parameters):
        """What its API answers: an error of a query is one here."""
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"http://{self.address}/api/v1/{what}?{query}", timeout=30) as response:
            return json.load(response)["data"]

    def since_the_start(self):
        return {"start": self.since, "end": time.time()}

    def is_there(self, selector):
        return bool(self.ask("series", **{"match[]": selector}, **self.since_the_start()))

    def values(self, expression, since=None):
        """All values of an expression since then, or since the start."""
        during = {"start": since or self.since, "end": time.time()}
        series = self.ask("query_range", query=expression, step="1", **during)["result"]
        return [float(value) for one in series for _, value in one["values"]]

    def excused(self, namespace, since):
        """What these gateways are not blamed for: something, where a look at one took half of the time between two since then, or so
        shortly before that a rule still sees it."""
        since -= LONGEST_RANGE
        busy = self.values(f'max_over_time(scrape_duration_seconds{{namespace="{namespace}"}}[1s]) > {INTERVAL / 2000}', since)
        return OF_TIME if busy else set()

    def firing(self, namespace):
        alerts = (alert for alert in self.ask("alerts")["alerts"] if alert["state"] == "firing")
        return [alert for alert in alerts if alert["labels"].get("namespace") == namespace]


def chosen(expression, service):
    """A panel's expression, as Grafana asks it when everything is chosen."""
    chosen = {"$__rate_interval": "2s", "$namespace": ".*", "$instance": ".*", "$endpoint": ".*", "$service": service}
    for name, value in chosen.items():
        expression = expression.replace(name, value)
    return expression


def matchers(expression):
    """Selectors of one label's value each, of all that an expression selects by."""
    for metric, pairs in re.findall(r"\b((?:redis_gateway|process)_\w+)\{(.*?)\}", expression):
        for label, values in re.findall(r'(\w+)[=!]~?"([^"$]*)"', pairs):
            yield from (f'{metric}{{{label}=~"{value}"}}' for value in values.split("|"))


class Files(unittest.TestCase):
    def test_the_dashboard_is_current(self):
        kept = (CHART / "files/dashboard.json").read_text()
        self.assertEqual(kept, dashboard.dashboard(), "python3 helm/dashboard.py writes helm/redis-gateway/files/dashboard.json")

    def test_each_alert_has_its_section_and_each_section_its_alert(self):
        sections = re.findall(r"^### (\w+)$", (HERE.parent / "docs/runbook.md").read_text(), re.MULTILINE)
        self.assertEqual(sections, list(rules()))

    def test_each_alert_leads_to_its_section(self):
        for name, rule in rules().items():
            with self.subTest(name):
                self.assertEqual(rule["annotations"]["runbook_url"], f"docs/runbook.md#{name.lower()}")
                self.assertIn(rule["labels"]["severity"], ("critical", "warning"))
                self.assertNotRegex(json.dumps(rule), "%[a-z]")

    def test_promtool_agrees(self):
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(HERE / "rules_test.yaml", folder)
            Path(folder, "rules.yaml").write_text(text_of_rules())
            for command in ["check rules rules.yaml", "test rules rules_test.yaml"]:
                done = subprocess.run(["promtool", *command.split()], cwd=folder, capture_output=True, text=True, timeout=60)
                self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


class Running(unittest.TestCase):
    def test_the_right_alerts_fire_and_each_panel_shows_something(self):
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rg")))
            calm, cluster = faults.calm(folder, stack)
            faulty = faults.Faulty(folder, stack)
            gateways = [("calm", calm.gateway), ("calm", cluster.gateway), ("faulty", faulty.gateway)]
            prometheus = stack.enter_context(Prometheus(folder, gateways))
            proven = set()
            for stage in faulty.stages(lambda query: prometheus.ask("query", query=query)["result"]):
                began = time.time()
                with stage as alerts:
                    fired = self.fire(prometheus, alerts)
                proven |= alerts
                excused = prometheus.excused("faulty", began)
                self.assertEqual(sorted(fired - proven - faulty.may_fire - excused), [], "nobody has given these a reason")
                with self.subTest("calm", beside=sorted(alerts)):
                    self.check_calm(prometheus, began, calm, cluster)
            by_promtool = (HERE / "rules_test.yaml").read_text()
            unproven = [name for name in rules() if name not in proven and f"alertname: {name}\n" not in by_promtool]
            self.assertEqual(unproven, [], "provoke it in helm/faults.py, or give it a test in helm/rules_test.yaml")
            self.check_panels(prometheus)

    def fire(self, prometheus, alerts):
        """Waits until each has fired, and reads what they say. Some end while others begin."""
        began, fired = time.monotonic(), set()

        def all_have_fired():
            for alert in prometheus.firing("faulty"):
                name, labels = alert["labels"]["alertname"], set(alert["labels"])
                fired.add(name)
                self.assertLessEqual(set(LABEL.findall(json.dumps(rules()[name]["annotations"]))), labels, name)
                self.assertNotIn("error expanding", json.dumps(alert["annotations"]), name)
            return alerts <= fired

        try:
            traffic.eventually(all_have_fired, "the alerts fire")
        finally:
            missing = sorted(alerts - fired)
            print(f"{time.monotonic() - began:5.1f} s until {', '.join(sorted(alerts & fired))}" + (f"; not: {missing}" if missing else ""))
        return fired

    def check_calm(self, prometheus, since, *calm):
        for callers in calm:
            self.assertEqual(callers.errors[:3], [])
        fired = 'max_over_time(ALERTS{alertstate="firing", namespace="calm"}[1s])'
        fired = prometheus.ask("query_range", query=fired, step="1", start=since, end=time.time())["result"]
        fired = {alert["metric"]["alertname"] for alert in fired}
        if excused := prometheus.excused("calm", since):
            print(f"not judged on a machine that is so busy: {', '.join(sorted(excused))}")
        self.assertEqual(sorted(fired - excused), [], "nothing is wrong there")

    def check_panels(self, prometheus):
        panels = [panel for panel in dashboard.panels() if "targets" in panel]
        services = {one["service"] for one in prometheus.ask("series", **{"match[]": "redis_gateway_rpc_requests_total"})}
        services = sorted(name for name in services if name != "unknown" and not name.startswith("grpc."))
        self.assertTrue(services)
        asked = [rule["expr"] for rule in rules().values()]
        for panel in panels:
            for expression in (target["expr"] for target in panel["targets"]):
                asked.append(expression)
                for service in services if "$service" in expression else [""]:
                    with self.subTest(panel["title"], expression=expression, service=service):
                        shown = prometheus.values(chosen(expression, service))
                        finite = list(filter(math.isfinite, shown))
                        self.assertTrue(finite, "shows nothing")
                        # A gauge may be 0 whenever it is looked at.
                        if "rate(" in expression and not QUIET.search(expression):
                            self.assertTrue(any(finite), "shows 0 throughout: is it ever counted?")
        for selector in sorted({selector for expression in asked for selector in matchers(expression)}):
            with self.subTest(selector):
                self.assertTrue(prometheus.is_there(selector), "selects nothing: no gateway exports that")
        exported = {name for name in prometheus.ask("label/__name__/values") if name.startswith(("redis_gateway_", "process_"))}
        histograms = {name.removesuffix("_bucket") for name in exported if name.endswith("_bucket")}
        exported -= {name + part for name in histograms for part in ("_sum", "_count")}
        shown = set(re.findall(r"\w+", "\n".join(asked[len(rules()) :])))
        self.assertEqual(sorted(exported - shown), [], "each family has its panel: add it to helm/dashboard.py")


if __name__ == "__main__":
    unittest.main()
