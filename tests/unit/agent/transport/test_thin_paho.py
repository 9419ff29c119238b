"""The MQTT link loads no web client, and leaves the real one to who needs it."""

from __future__ import annotations

import subprocess
import sys

_LOOK = """
import sys
import agent.transport.mqtt
print([name for name in ("urllib.request", "http.client", "email") if name in sys.modules])
import urllib.request
print(callable(urllib.request.getproxies))
"""


def test_the_web_is_not_loaded_and_not_lost() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LOOK], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split("\n")[:2] == ["[]", "True"]
