"""paho-mqtt without the web: 1.5 MiB less for a supervisor that has 20.

paho imports ``urllib.request``, and with it ``http.client`` and ``email``, to find the proxy that
PySocks should use. Without PySocks it never asks.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from agent import thin

if TYPE_CHECKING or importlib.util.find_spec("socks") is not None:
    import paho.mqtt.client as paho
else:
    paho = thin.load("paho.mqtt.client", without="urllib.request")

__all__ = ["paho"]
