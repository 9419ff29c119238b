"""Profiles: what a class of device can run, its quantization rules, limits and sensors."""

from __future__ import annotations

import functools
from importlib import resources

from profiles.errors import ProfileError
from profiles.match import Matched, match
from profiles.schema import Profile, parse_profile

__all__ = ["Matched", "Profile", "ProfileError", "all_profiles", "load_profile", "match"]


def load_profile(name: str) -> Profile:
    """The shipped profile of this name.

    Raises:
        ProfileError: there is none; the message lists those there are.
    """
    for profile in all_profiles():
        if profile.name == name:
            return profile
    names = ", ".join(profile.name for profile in all_profiles())
    raise ProfileError(f"no profile '{name}'; there are: {names}")


@functools.lru_cache(maxsize=1)
def all_profiles() -> tuple[Profile, ...]:
    """All shipped profiles, by name.

    Raises:
        ProfileError: a file is malformed or its name is not that of its profile.
    """
    found = []
    for entry in resources.files("profiles").joinpath("data").iterdir():
        if not entry.name.endswith(".toml"):
            continue
        profile = parse_profile(entry.read_text(encoding="utf-8"), f"profiles/data/{entry.name}")
        if entry.name != f"{profile.name}.toml":
            raise ProfileError(
                f"profiles/data/{entry.name}: name is '{profile.name}': rename one of the two"
            )
        found.append(profile)
    return tuple(sorted(found, key=lambda profile: profile.name))
