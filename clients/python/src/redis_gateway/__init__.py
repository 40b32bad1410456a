"""Client of redis-gateway. `redis_gateway.quay` has the classes that Quay's services call."""

from . import _environment  # noqa: F401  (before grpcio is imported)
from .client import AsyncClient, Client, shared
from .errors import GatewayError, OutcomeUnknown, Unavailable

__all__ = ["AsyncClient", "Client", "GatewayError", "OutcomeUnknown", "Unavailable", "shared"]
