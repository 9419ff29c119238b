"""Which versions of the signed metadata this device has trusted, read where its client keeps them.

The controller is told, so that one that was restored from a backup goes on above them: what is
older than this the client refuses as a replay.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_SUFFIX: Final = ".json"
_MOST: Final = 2**63 - 1


def versions(folder: Path) -> Mapping[str, int]:
    """Role to version, from the timestamp and the snapshot: what later ones must not fall below.

    Empty before the first verification; a file that cannot be read says nothing.
    """
    found: dict[str, int] = {}
    for role in ("timestamp", "snapshot"):
        signed = _signed(folder / f"{role}{_SUFFIX}")
        _raise(found, role, signed.get("version"))
        listed = signed.get("meta")
        for name, described in listed.items() if isinstance(listed, dict) else ():
            version = described.get("version") if isinstance(described, dict) else None
            _raise(found, str(name).removesuffix(_SUFFIX), version)
    return found


def _raise(found: dict[str, int], role: str, version: object) -> None:
    if isinstance(version, int) and 0 < version <= _MOST:
        found[role] = max(version, found.get(role, 0))


def _signed(path: Path) -> dict[str, Any]:
    try:
        signed = json.loads(path.read_bytes())["signed"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return signed if isinstance(signed, dict) else {}
