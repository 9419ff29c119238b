"""The cache: results appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.compress.cache import FitCache, fit_key, tool_versions

KEY = fit_key({"source": "s", "seed": 1})


def test_a_key_names_everything_that_decides() -> None:
    assert fit_key({"seed": 1, "source": "s"}) == KEY
    assert fit_key({"source": "s", "seed": 2}) != KEY


def test_what_was_put_is_found(tmp_path: Path) -> None:
    cache = FitCache(tmp_path)
    assert cache.get("heads", KEY) is None
    folder = cache.put("heads", KEY, lambda into: (into / "a").write_text("1") and None)
    assert cache.get("heads", KEY) == folder
    again = cache.put("heads", KEY, lambda into: (into / "a").write_text("2") and None)
    assert (again / "a").read_text() == "1"


def test_a_result_that_failed_half_way_leaves_nothing(tmp_path: Path) -> None:
    def half(into: Path) -> None:
        (into / "a").write_text("1")
        raise ValueError("killed")

    cache = FitCache(tmp_path)
    with pytest.raises(ValueError, match="killed"):
        cache.put("heads", KEY, half)
    assert cache.get("heads", KEY) is None
    assert list((tmp_path / "heads").iterdir()) == []


def test_tool_versions_are_those_installed(tmp_path: Path) -> None:
    found = tool_versions(("torch", "no-such-tool"), processor=tmp_path / "none")
    assert set(found) == {"torch"}


@pytest.mark.parametrize(
    ("flags", "native"), [("fpu avx512_bf16 sse", True), ("fpu avx512f sse", False)]
)
def test_what_a_processor_trains_in_is_part_of_a_key(
    tmp_path: Path, *, flags: str, native: bool
) -> None:
    (tmp_path / "cpuinfo").write_text(f"flags\t\t: {flags}\n")
    found = tool_versions((), processor=tmp_path / "cpuinfo")
    assert ("bfloat16" in found) is native
    assert tool_versions((), processor=tmp_path / "none") == {}
