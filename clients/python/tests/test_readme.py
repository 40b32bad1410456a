"""The README's code runs as it stands, but for the address."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from redis_gateway.quay.locking import GlobalLock

from .conftest import Gateway

README = Path(__file__).parents[1] / "README.md"


def test_readme(gateway: Gateway, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    # The first configuration counts, and another test may have made it.
    monkeypatch.setattr(GlobalLock, "_client", None)
    printed = []
    for code in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL):
        assert "127.0.0.1:50051" in code
        exec(code.replace("127.0.0.1:50051", gateway.target), {})
        printed.append(capsys.readouterr().out)
    assert printed[0] == "1\n"
    assert re.fullmatch(r"{'vulnerabilities': \[\]}\n\d{16}\n0\n", printed[1])
    assert len(printed) == 2
