"""A TOML table that remembers which keys were asked for, and complains with the mend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from profiles.errors import ProfileError


class Table:
    """One table of a TOML file. Every getter takes its key; `done` refuses what is left."""

    def __init__(self, values: Mapping[str, Any], origin: str, where: str = "") -> None:
        """``origin`` is the file, ``where`` the table's name in it (empty at the top)."""
        self._values = values
        self._origin = origin
        self._where = where
        self._known: list[str] = []

    def error(self, what: str, mend: str) -> ProfileError:
        """An error that names the file and the table."""
        place = f"{self._origin}: {self._where}: " if self._where else f"{self._origin}: "
        return ProfileError(f"{place}{what}: {mend}")

    def done(self) -> None:
        """Refuse keys that nobody asked for.

        Raises:
            ProfileError: there are any.
        """
        for key in self._values:
            if key not in self._known:
                from difflib import get_close_matches

                near = get_close_matches(key, self._known, n=1)
                mend = f"did you mean '{near[0]}'?" if near else "remove it"
                known = ", ".join(sorted(self._known))
                raise self.error(f"unknown key '{key}'", f"{mend} (known: {known})")

    def text(self, key: str, default: str | None = None) -> str:
        value = self._get(key, str, "a text", default)
        return str(value)

    def texts(self, key: str) -> tuple[str, ...]:
        items = self._get(key, list, "a list of texts", [])
        if not all(isinstance(item, str) and item for item in items):
            raise self.error(f"'{key}' holds something that is no text", "write a list of texts")
        return tuple(items)

    def choice(self, key: str, allowed: tuple[str, ...]) -> str:
        return self._one_of(key, self.text(key), allowed)

    def choices(self, key: str, allowed: tuple[str, ...]) -> tuple[str, ...]:
        items = tuple(self._one_of(key, item, allowed) for item in self.texts(key))
        if len(set(items)) != len(items):
            raise self.error(f"'{key}' names something twice", "write each once")
        return items

    def flag(self, key: str) -> bool | None:
        value = self._get(key, bool, "true or false", ...)
        return None if value is ... else bool(value)

    def integer(self, key: str, *, default: int, low: int) -> int:
        value = self._get(key, int, "a whole number", default)
        if isinstance(value, bool) or value < low:
            raise self.error(f"'{key}' is {value}", f"write a whole number of at least {low}")
        return int(value)

    def whole(self, key: str) -> int | None:
        """A positive whole number or None."""
        if key in self._values:
            return self.integer(key, default=0, low=1)
        self._known.append(key)
        return None

    def number(self, key: str, *, low: float, high: float | None = None) -> float | None:
        """A number in bounds or None."""
        value = self._get(key, (int, float), "a number", ...)
        if value is ...:
            return None
        if isinstance(value, bool) or value < low or (high is not None and value > high):
            bounds = f"of at least {low}" + (f" and at most {high}" if high is not None else "")
            raise self.error(f"'{key}' is {value}", f"write a number {bounds}")
        return float(value)

    def table(self, key: str, *, required: bool = True) -> Table:
        value = self._get(key, dict, f"a table [{key}]", None if required else {})
        return Table(value, self._origin, f"[{key}]")

    def tables(self, key: str) -> tuple[Table, ...]:
        items = self._get(key, list, f"tables [[{key}]]", [])
        if not all(isinstance(item, dict) for item in items):
            raise self.error(f"'{key}' is no list of tables", f"write [[{key}]] before each")
        return tuple(
            Table(item, self._origin, f"[[{key}]] number {number}")
            for number, item in enumerate(items, start=1)
        )

    def _get(self, key: str, kind: Any, described: str, default: Any) -> Any:
        self._known.append(key)
        if key not in self._values:
            if default is None:
                raise self.error(f"'{key}' is missing", f"add {described}")
            return default
        value = self._values[key]
        if not isinstance(value, kind):
            raise self.error(f"'{key}' is {value!r}", f"write {described}")
        return value

    def _one_of(self, key: str, value: str, allowed: tuple[str, ...]) -> str:
        if value not in allowed:
            raise self.error(f"'{key}' names '{value}'", f"choose from {', '.join(allowed)}")
        return value
