"""Lets calls go on in their caller's trace, where its process uses OpenTelemetry."""

from __future__ import annotations

import logging
from typing import Any

logger = logging.getLogger(__name__)

try:
    from opentelemetry.propagate import inject
    from opentelemetry.trace import get_current_span
except Exception as error:
    # It may be there and set to what is not, such as a propagator that nobody installed: no reason to fail here.
    if not isinstance(error, ImportError):
        logger.warning("calls are in no trace: %s", error)

    def traced(options: dict[str, Any]) -> dict[str, Any]:
        """A call's options, as they are: there is no OpenTelemetry."""
        return options

else:

    def traced(options: dict[str, Any]) -> dict[str, Any]:
        """A call's options; within a span their metadata names it, in the process's form, by default W3C's."""
        if not get_current_span().get_span_context().is_valid:
            return options
        headers: dict[str, str] = {}
        inject(headers)
        metadata = list(options.get("metadata") or ())
        told = {name for name, _ in metadata}
        # gRPC refuses capital letters, and some forms have them; and all beyond ASCII, which the baggage may have.
        names = [(name.lower(), value) for name, value in headers.items() if value.isascii()]
        return {**options, "metadata": [*metadata, *(name for name in names if name[0] not in told)]}
