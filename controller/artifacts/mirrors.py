"""Mirrors: web servers or object stores that hold the transport files beside the controller.

The folder ``blobs`` of the data directory, copied or served as it is, is a mirror: a file lies at
``<first two hex digits>/<hex>`` of its SHA-256. Devices check what they get, so a mirror needs no
trust, only read access for devices: who can guess no digest can name no file.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from controller.errors import UserError
from fitment.core import digest

HEX, FOLDER = "{hex}", "{folder}"


@dataclass(frozen=True, slots=True)
class Mirrors:
    """Address templates, best first."""

    templates: tuple[str, ...] = ()

    def urls(self, archive: str) -> tuple[str, ...]:
        """Where a transport file lies.

        Raises:
            ValueError: ``archive`` is not a digest.
        """
        name = digest.hex_of(archive)
        return tuple(t.replace(HEX, name).replace(FOLDER, name[:2]) for t in self.templates)


def parse(text: str) -> Mirrors:
    """Templates from a setting: separated by spaces, each with ``{hex}``, most with ``{folder}``.

    Raises:
        UserError: one is no address, or names the same file for every digest.
    """
    templates = tuple(text.split())
    for template in templates:
        parts = urlsplit(template)
        if parts.scheme not in ("https", "http") or not parts.hostname:
            raise UserError(
                f"'artifact_urls': {template} is not an address that begins with https://"
            )
        if parts.username is not None:
            raise UserError(
                f"'artifact_urls': the address of {parts.hostname} holds a name or a password,"
                " which devices would be told: let it be read without, or by a key in the query"
            )
        if HEX not in template:
            raise UserError(
                f"'artifact_urls': {template} names one file for all models; put {HEX} where the"
                f" digest goes, as in https://models.example/{FOLDER}/{HEX}"
            )
    return Mirrors(templates)
