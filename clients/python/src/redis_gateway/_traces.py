"""Lets calls go on in their caller's trace, where its process uses OpenTelemetry."""

from __future__ import annotations

from typing import Any

try:
    from opentelemetry.propagate import inject
    from opentelemetry.trace import get_current_span
except ImportError:

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
        # gRPC refuses capital letters, and some forms have them.
        names = [(name.lower(), value) for name, value in headers.items()]
        return {**options, "metadata": [*(options.get("metadata") or ()), *names]}
