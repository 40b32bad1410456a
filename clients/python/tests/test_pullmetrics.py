"""`PullMetrics`: the recording of the reference, in both ways, and what the recording does not have."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from redis_gateway.quay import pullmetrics
from redis_gateway.quay.pullmetrics import PullMetrics, PullMetricsBuilderModule

from .conftest import PATIENCE, Server
from .recording import replay


@pytest.mark.parametrize("sync", [True, False])
def test_leaves_what_the_reference_left(
    config: dict[str, Any], server: Server, monkeypatch: pytest.MonkeyPatch, sync: bool
) -> None:
    pulls = PullMetrics(config, max_workers=5)

    def do(op: str, args: dict[str, Any]) -> Any:
        names = [args[name] for name in ("repository_id", "tag", "digest") if name in args]
        if not op.startswith("track"):
            return getattr(pulls, op)(*names)
        if "at" in args:
            monkeypatch.setattr(pullmetrics, "time", SimpleNamespace(time=lambda: args["at"] + 0.5))
        before = pulls.counts
        getattr(pulls, f"{op}_sync" if sync else op)(*names)
        if not sync:
            pulls.shutdown()
            if pulls.counts.stood == before.stood:
                # In the background a failure is logged and counted; the recording is of the call that raises.
                raise TypeError
        return None

    assert replay(server, "track tag and manifest pulls", do) == 14


def test_a_repository_may_be_an_object(config: dict[str, Any]) -> None:
    pulls = PullMetrics(config)
    pulls.track_manifest_pull(SimpleNamespace(id=9), "sha256:aa")
    assert pulls._client.background_pulls.flush(PATIENCE)
    statistics = pulls.get_manifest_pull_statistics(9, "sha256:aa")
    assert statistics and statistics["pull_count"] == 1


def test_what_cannot_be_read_is_none(config: dict[str, Any], server: Server) -> None:
    server.direct(db=1).set("pull_events:repo:9:digest:sha256:aa", "no hash")
    pulls = PullMetrics(config)
    assert pulls.get_manifest_pull_statistics(9, "sha256:aa") is None
    assert pulls.get_tag_pull_statistics(9, "", "sha256:aa") is None


def test_extension(config: dict[str, Any]) -> None:
    module = PullMetricsBuilderModule()
    assert module
    app = SimpleNamespace(config={"PULL_METRICS_REDIS": config})
    assert isinstance(PullMetricsBuilderModule(app).get_event(), PullMetrics)
    assert app.extensions["pullmetrics"]
