"""Judges the chart: helm's lint, golden files, Kubernetes' schemas, refusals, and the gateway's own word on what it gets.

HELM and REDIS_GATEWAY_BIN name the programs. With UPDATE_GOLDEN=1 the golden files are written instead of compared.
"""

import functools
import json
import os
import shutil
import subprocess
import tempfile
import threading
import tomllib
import unittest
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import grpc
import jsonschema
import kubernetes_validate
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

HERE = Path(__file__).parent
ROOT = HERE.parent
CHART = HERE / "redis-gateway"
TESTS = CHART / "tests"
HELM = os.environ.get("HELM", "helm")
GATEWAY = Path(os.environ.get("REDIS_GATEWAY_BIN", ROOT / "target/debug/redis-gateway")).resolve()

# The oldest that Chart.yaml allows, and the newest whose schemas there are.
KUBERNETES = ["1.29", "1.37"]

# Whose repository has the schemas of what it adds to Kubernetes. Go's proxy hands out its files.
OPERATOR = "github.com/prometheus-operator/prometheus-operator@v0.85.0"


def run(*command, **more):
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=120, **more)


def template(chart, *values):
    files = [part for value in values for part in ("--values", value)]
    # A helm that was built without a version takes Kubernetes for one that is too old.
    return run(HELM, "template", "release", chart, "--namespace", "registry", "--kube-version", KUBERNETES[0], *files)


def rendered():
    """Name and text of each case: a file of values, or the chart of somebody else that has this one as a dependency."""
    for values in sorted(TESTS.glob("*.yaml")):
        yield values.stem, template(CHART, values)
    with tempfile.TemporaryDirectory() as folder:
        parent = Path(folder) / "registry"
        shutil.copytree(TESTS / "sidecar", parent)
        shutil.copytree(CHART, parent / "charts/redis-gateway", ignore=shutil.ignore_patterns("tests"))
        yield "sidecar", template(parent)


@functools.cache
def definitions():
    """The folder with what Prometheus' operator adds to Kubernetes, None where it cannot be had."""
    try:
        found = json.loads(run("go", "mod", "download", "-json", OPERATOR).stdout)
        return Path(found["Dir"]) / "example/prometheus-operator-crd"
    except (FileNotFoundError, subprocess.TimeoutExpired, KeyError, ValueError) as missing:
        print(f"\nnot run: the schemas of Prometheus' operator (no go, or none of its proxies: {missing!r})")
        return None


@functools.cache
def operator(api_version, kind):
    """What judges such an object as Prometheus' operator would."""
    of = yaml.safe_load((definitions() / f"monitoring.coreos.com_{kind.lower()}s.yaml").read_text())["spec"]
    version = named(of["versions"], api_version.removeprefix(f"{of['group']}/"))
    # Not `jsonschema.validate`, which judges the schema too: its patterns are Go's.
    return jsonschema.Draft7Validator(strict(version["schema"]["openAPIV3Schema"]))


def strict(schema):
    """`schema`, which then takes no member that it does not name: Kubernetes drops them without a word."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {} if "properties" not in schema else {"additionalProperties": False}
    return closed | {name: strict(part) for name, part in schema.items()}


def named(items, name):
    return next(item for item in items if item["name"] == name)


class Pod:
    """What the gateway's container finds in the pod that a chart makes."""

    def __init__(self, objects):
        deployment = next(o for o in objects if o["kind"] == "Deployment")
        self.spec = deployment["spec"]["template"]["spec"]
        self.container = named(self.spec["containers"] + self.spec.get("initContainers", []), "redis-gateway")
        self.configs = {o["metadata"]["name"]: o["data"] for o in objects if o["kind"] == "ConfigMap"}

    def files(self):
        """Path and text of each file that is mounted; those out of Secrets hold no more than a password would."""
        for mount in self.container["volumeMounts"]:
            volume = named(self.spec["volumes"], mount["name"])
            at = mount["mountPath"]
            if volume["name"] == "redis-gateway-config":
                for name, text in self.configs[volume["configMap"]["name"]].items():
                    yield f"{at}/{name}", text
            quay = "BUILDLOGS_REDIS: {host: redis.example}\n"
            for item in volume.get("secret", {}).get("items", []):
                yield f"{at}/{item['path']}", quay
            for source in volume.get("projected", {}).get("sources", []):
                for item in next(iter(source.values()))["items"]:
                    yield f"{at}/{item['path']}", "secret"

    def check(self):
        """The gateway's `check`, with this pod's files and arguments in a folder instead of /etc."""
        with tempfile.TemporaryDirectory() as folder:
            moved = lambda text: text.replace("/etc/redis-gateway", folder)
            for path, text in self.files():
                path = Path(moved(path))
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(moved(text))
            return run(GATEWAY, "check", *map(moved, self.container["args"]), env={})


class Charts(unittest.TestCase):
    def test_what_is_rendered_is_as_it_was_and_as_kubernetes_and_the_gateway_want_it(self):
        for name, result in rendered():
            with self.subTest(name):
                self.assertEqual(result.returncode, 0, result.stderr)
                golden = TESTS / "golden" / f"{name}.yaml"
                if os.environ.get("UPDATE_GOLDEN"):
                    golden.write_text(result.stdout)
                self.assertEqual(result.stdout, golden.read_text(), "UPDATE_GOLDEN=1 makes it the golden file")
                objects = [o for o in yaml.safe_load_all(result.stdout) if o]
                for o in objects:
                    if not o["apiVersion"].startswith("monitoring.coreos.com/"):
                        for version in KUBERNETES:
                            kubernetes_validate.validate(o, version, strict=True)
                    elif definitions():
                        operator(o["apiVersion"], o["kind"]).validate(o)
                checked = Pod(objects).check()
                self.assertEqual(checked.returncode, 0, checked.stderr)

    def test_what_cannot_be_meant_is_refused_with_its_reason(self):
        refused = sorted((TESTS / "refused").glob("*.yaml"))
        self.assertTrue(refused)
        for values in refused:
            with self.subTest(values.stem):
                says = values.read_text().splitlines()[0].removeprefix("# says: ")
                result = template(CHART, TESTS / "minimal.yaml", values)
                self.assertNotEqual(result.returncode, 0, result.stdout)
                self.assertIn(says, result.stderr)

    def test_helm_finds_nothing(self):
        linted = run(HELM, "lint", "--strict", CHART, "--values", TESTS / "full.yaml")
        self.assertEqual(linted.returncode, 0, linted.stdout + linted.stderr)

    def test_each_value_is_described_and_has_a_schema(self):
        schema = json.loads((CHART / "values.schema.json").read_text())
        text = (CHART / "values.yaml").read_text()
        values = yaml.safe_load(text)
        # What only a chart that depends on this one sets.
        self.assertEqual(set(schema["properties"]) - set(values), {"global", "enabled"})
        self.assertEqual(set(values) - set(schema["properties"]), set())
        lines = text.splitlines()
        bare = [line for before, line in zip(lines, lines[1:]) if line[0:1].isalpha() and before[0:1] != "#"]
        self.assertEqual(bare, [])

    def test_versions_agree(self):
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
        version = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]
        python = tomllib.loads((ROOT / "clients/python/pyproject.toml").read_text())["project"]["version"]
        self.assertEqual((chart["version"], chart["appVersion"], python), (version, version, version))
        dockerfile = (ROOT / "Dockerfile").read_text()
        self.assertIn(f"\nARG VERSION={version}\n", dockerfile)
        rust = tomllib.loads((ROOT / "rust-toolchain.toml").read_text())["toolchain"]["channel"]
        self.assertIn(f"\nFROM rust:{rust}-slim", dockerfile)


class Probes(unittest.TestCase):
    def test_they_are_answered_as_kubernetes_is_to_hear_it(self):
        for name in ["minimal", "quay"]:
            pod = Pod(list(yaml.safe_load_all((TESTS / "golden" / f"{name}.yaml").read_text())))
            live, ready = (pod.container[f"{probe}Probe"] for probe in ["liveness", "readiness"])
            with self.subTest(name), gateway() as where:
                self.assertEqual((answer(live, where), answer(ready, where)), (True, True))
            with self.subTest(name), gateway("--readiness=cache") as where:
                self.assertEqual((answer(live, where), answer(ready, where)), (True, False))


def answer(probe, where):
    """Whether a probe succeeds."""
    channel, get = where
    if "grpc" in probe:
        request = health_pb2.HealthCheckRequest(service=probe["grpc"].get("service", ""))
        status = health_pb2_grpc.HealthStub(channel).Check(request, timeout=30).status
        return status == health_pb2.HealthCheckResponse.SERVING
    try:
        get(probe["httpGet"]["path"])
        return True
    except urllib.error.HTTPError as error:
        # Anything else is no answer of a gateway that is not ready.
        if error.code != 503:
            raise
        return False


@contextmanager
def gateway(*args):
    """A gateway whose Redis is away, until the end of the block: how to call it, and what its admin port answers."""
    endpoints = ["build-logs", "cache", "orchestrator", "pull-metrics", "user-events"]
    sockets = [f"--endpoints-{name}-socket=nowhere" for name in endpoints]
    listen = ["--grpc-listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", "--telemetry-log-format=json"]
    process = subprocess.Popen([GATEWAY, *listen, *sockets, *args], stderr=subprocess.PIPE, text=True, env={})
    too_late = threading.Timer(60, process.kill)
    too_late.start()
    try:
        lines = map(json.loads, process.stderr)
        ports = next(line for line in lines if line["message"] == "listening")

        def get(path):
            with urllib.request.urlopen(f"http://{ports['admin']}{path}", timeout=30) as response:
                return response.read().decode()

        with grpc.insecure_channel(ports["grpc"]) as channel:
            yield channel, get
    finally:
        too_late.cancel()
        process.kill()
        process.communicate()


if __name__ == "__main__":
    unittest.main()
