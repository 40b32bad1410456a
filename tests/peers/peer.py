"""What the peers share: the examples on their path, a first line once SIGTERM ends them well, a last one with what was done."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "examples/python"))

from flush import Database, Ending  # noqa: E402, F401


def begin():
    """What SIGTERM tells; from the line `ready` on it does."""
    ending = Ending()
    print("ready", flush=True)
    return ending


def report(**counts):
    """The last line on stdout: one JSON object."""
    print(json.dumps(counts), flush=True)
