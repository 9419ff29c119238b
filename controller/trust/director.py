"""The director: signs what one device is told to do (assignments and studies).

Its key is online, since assignments change all the time. What it can do is narrow: a device
still runs only bundles that the signed metadata lists, of releases that were approved offline.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from controller.errors import TrustError
from controller.trust import files
from fitment.core import digest
from fitment.core.deployment import SignedPayload

_KEY_NAME = "director.key"


class Director:
    """An Ed25519 key and its signatures over canonical JSON."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public_raw = key.public_key().public_bytes(
            serialization.Encoding.Raw, serialization.PublicFormat.Raw
        )
        self.key_id = digest.digest_bytes(self.public_raw)

    @classmethod
    def create(cls, folder: Path) -> Director:
        """Make a key in ``folder``; one that is there is used."""
        files.make_private_folder(folder)
        if not (folder / _KEY_NAME).exists():
            files.write_private(folder / _KEY_NAME, private_pem(Ed25519PrivateKey.generate()))
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> Director:
        """Load the key.

        Raises:
            TrustError: the key is missing, or is not an Ed25519 key.
        """
        return cls(load_ed25519(folder / _KEY_NAME, "the director's key"))

    def sign(self, value: object) -> SignedPayload:
        """Sign the canonical JSON of an `Assignment` or a `Study`."""
        payload = digest.canonical(value)
        return SignedPayload(payload=payload, key_id=self.key_id, signature=self._key.sign(payload))

    def holds(self, signed: SignedPayload) -> bool:
        """Whether ``signed`` was signed by this director."""
        if signed.key_id != self.key_id:
            return False
        try:
            self._key.public_key().verify(signed.signature, signed.payload)
        except InvalidSignature:
            return False
        return True


def private_pem(key: Ed25519PrivateKey) -> bytes:
    """PKCS#8 PEM, not encrypted: the file's mode is what protects it."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def load_ed25519(path: Path, what: str) -> Ed25519PrivateKey:
    """Load a key that `private_pem` wrote.

    Raises:
        TrustError: the file is missing or holds something else.
    """
    data = files.read_required(path, what)
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError) as error:
        raise TrustError(f"{what} is damaged: {path} holds no PEM private key") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise TrustError(f"{what} must be an Ed25519 key, {path} holds another kind")
    return key
