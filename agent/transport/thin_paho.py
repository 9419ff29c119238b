"""paho-mqtt without the web: 1.5 MiB less for a supervisor that has 20.

paho imports ``urllib.request``, and with it ``http.client`` and ``email``, to find the proxy that
PySocks should use. Without PySocks it never asks.
"""

from __future__ import annotations

import importlib.util
import sys
import types

_UNUSED = "urllib.request"

if _UNUSED in sys.modules or importlib.util.find_spec("socks") is not None:
    import paho.mqtt.client as paho
else:
    sys.modules[_UNUSED] = types.ModuleType(_UNUSED)
    try:
        import paho.mqtt.client as paho
    finally:
        del sys.modules[_UNUSED]  # who needs the real one gets it

__all__ = ["paho"]
