"""What the drop-ins take from Quay's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..client import Client, shared


def client_of(redis_config: Mapping[str, Any] | None) -> Client:
    """The process's client of the gateway that `redis_config` names by its entry `gateway`, else of the one that
    `REDISGATEWAY_TARGET` names, else of 127.0.0.1:50051. The other entries, for Redis itself, are the gateway's business."""
    return shared((redis_config or {}).get("gateway"))


def redis_config_of(app: Any, name: str) -> Mapping[str, Any]:
    """The entry of an application's configuration, in its form of today or the older one."""
    return app.config.get(name) or {"host": app.config.get(f"{name}_HOSTNAME")}


class Module:
    """An extension of an application, made when it is initialized; it has the attributes of what was made."""

    name: str
    state: Any = None

    def __init__(self, app: Any = None) -> None:
        self.app = app
        self.state = None if app is None else self.init_app(app)

    def init_app(self, app: Any) -> Any:
        made = self.make(app)
        app.extensions = getattr(app, "extensions", {})
        app.extensions[self.name] = made
        return made

    def make(self, app: Any) -> Any:
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:
        return getattr(self.state, name, None)
