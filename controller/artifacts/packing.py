"""The transport form of a bundle: a deterministic tar, compressed with xz.

The same folder gives the same bytes, so a bundle has one archive digest whoever packs it: names
sorted, no times, no owners, mode 0644, plain ustar headers.
"""

from __future__ import annotations

import io
import json
import lzma
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from controller.artifacts.blobs import Blobs
from controller.errors import UserError
from fitment.core import digest as digests
from fitment.core import plain
from fitment.core.bundle import MANIFEST_NAME, BundleManifest
from fitment.core.deployment import BundleRef

_MAX_DICTIONARY = 64 * 1024 * 1024  # what preset 9 takes; more never helped a model
_MIN_DICTIONARY = 64 * 1024
_CODERS = ((3, 0, 2), (1, 0, 0), (0, 0, 2), (4, 0, 0))  # (lc, lp, pb); of equal ones the first
_EXACT = 512 * 1024  # bytes up to which all are tried: a quarter of a second, for up to 2 % less


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedBundle:
    """A transport file that was written."""

    variant: str  # digest of bundle.json
    archive: str  # digest of the transport file
    archive_bytes: int


def target_path(variant: str) -> str:
    """Path of a variant's transport file in the signed metadata."""
    return f"bundles/{digests.hex_of(variant)}.tar.xz"


def bundle_ref(packed: PackedBundle, name: str) -> BundleRef:
    """How devices are told to fetch it; ``name`` is for people."""
    return BundleRef(
        variant=packed.variant,
        name=name,
        archive=packed.archive,
        archive_bytes=packed.archive_bytes,
        target=target_path(packed.variant),
    )


def read_manifest(folder: Path) -> BundleManifest:
    """The manifest of a bundle folder.

    Raises:
        UserError: ``bundle.json`` is missing, not canonical JSON, or says something impossible.
    """
    return _parse(_manifest_bytes(folder), folder)


def pack(folder: Path, target: Path) -> PackedBundle:
    """Write the transport file of a bundle folder to ``target``.

    Raises:
        UserError: a listed file is missing, differs from its entry, or has a bad path; or a
            file lies in the folder that the manifest does not list.
    """
    manifest_bytes = _manifest_bytes(folder)
    members = {MANIFEST_NAME: manifest_bytes}
    for entry in _parse(manifest_bytes, folder).files:
        if entry.path in members:
            raise UserError(f"{folder}: the manifest lists '{entry.path}' twice")
        members[entry.path] = _checked(folder, entry.path, entry.sha256, entry.size)
    _refuse_unlisted(folder, set(members))
    archive = _compress(_tar(members))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(archive)
    return PackedBundle(
        variant=digests.digest_bytes(manifest_bytes),
        archive=digests.digest_bytes(archive),
        archive_bytes=len(archive),
    )


def pack_into(folder: Path, blobs: Blobs, work: Path) -> PackedBundle:
    """Pack a bundle folder and store the transport file as a blob; ``work`` holds it meanwhile."""
    temporary = work / "packing.tar.xz"
    packed = pack(folder, temporary)
    blobs.put_file(temporary)
    temporary.unlink()
    return packed


def read_artifact(archive: BinaryIO) -> tuple[BundleManifest, bytes]:
    """The manifest and the runtime file of a transport file that `pack` wrote.

    Raises:
        UserError: it is none, or its runtime file is not what the manifest says.
    """
    try:
        with tarfile.open(fileobj=archive, mode="r:xz") as members:
            manifest = plain.from_plain(BundleManifest, json.loads(_member(members, MANIFEST_NAME)))
            data = _member(members, manifest.artifact)
    except (tarfile.TarError, lzma.LZMAError, EOFError, KeyError, ValueError) as error:
        raise UserError(f"this is no transport file of a bundle: {error}") from error
    entry = next((e for e in manifest.files if e.path == manifest.artifact), None)
    if entry is None or digests.digest_bytes(data) != entry.sha256:
        raise UserError(f"'{manifest.artifact}' differs from its entry in {MANIFEST_NAME}")
    return manifest, data


def _member(members: tarfile.TarFile, name: str) -> bytes:
    stream = members.extractfile(name)
    if stream is None:
        raise KeyError(f"'{name}' is no regular file in it")
    return stream.read()


def _manifest_bytes(folder: Path) -> bytes:
    try:
        return (folder / MANIFEST_NAME).read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{folder} is no bundle: it has no {MANIFEST_NAME}") from error


def _parse(data: bytes, folder: Path) -> BundleManifest:
    where = folder / MANIFEST_NAME
    try:
        manifest = plain.from_plain(BundleManifest, json.loads(data))
    except ValueError as error:  # bad JSON and bad types alike
        raise UserError(f"{where} is no bundle manifest: {error}") from error
    if digests.canonical(json.loads(data)) != data:
        raise UserError(f"{where} must be canonical JSON, or its digest would not be stable")
    return manifest


def _checked(folder: Path, name: str, sha256: str, size: int) -> bytes:
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or str(pure) != name or not pure.parts:
        raise UserError(f"{folder}: '{name}' is no clean relative path")
    path = folder / name
    if path.is_symlink() or not path.is_file():
        raise UserError(f"{folder}: '{name}' is listed, but it is no regular file there")
    data = path.read_bytes()
    if len(data) != size or digests.digest_bytes(data) != sha256:
        raise UserError(f"{folder}: '{name}' differs from its entry in {MANIFEST_NAME}")
    return data


def _refuse_unlisted(folder: Path, listed: set[str]) -> None:
    present = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}
    if present - listed:
        extra = ", ".join(sorted(present - listed))
        raise UserError(f"{folder}: not listed in {MANIFEST_NAME}: {extra}")


def _tar(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in sorted(members.items()):
            info = tarfile.TarInfo(name)  # mtime, uid and gid are 0, names of owners empty
            info.size = len(data)
            info.mode = 0o644
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _compress(data: bytes) -> bytes:
    """Xz at its strongest, with a dictionary no larger than the data.

    Who unpacks needs the dictionary's size in memory: preset 9 alone would ask a small board
    for 64 MiB to unpack 400 kB. Weights are not text: which bits of position and of the byte
    before foretell the next byte differs from model to model, and is tried.
    """
    dictionary = _MIN_DICTIONARY
    while dictionary < min(len(data), _MAX_DICTIONARY):
        dictionary *= 2
    coders = _CODERS if len(data) <= _EXACT else _CODERS[:1]
    return min((_xz(data, coder, dictionary) for coder in coders), key=len)


def _xz(data: bytes, coder: tuple[int, int, int], dictionary: int) -> bytes:
    lc, lp, pb = coder
    filters = [
        {
            "id": lzma.FILTER_LZMA2,
            "preset": 9 | lzma.PRESET_EXTREME,
            "dict_size": dictionary,
            "lc": lc,
            "lp": lp,
            "pb": pb,
        }
    ]
    return lzma.compress(data, format=lzma.FORMAT_XZ, check=lzma.CHECK_SHA256, filters=filters)
