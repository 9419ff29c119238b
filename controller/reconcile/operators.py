"""Operators' tokens: who may do what, and until when. Only hashes are kept."""

from __future__ import annotations

import re
import secrets
from dataclasses import replace

from controller.domain.roles import Identity, Operator, Role
from controller.errors import Conflict, NotFound, UserError
from controller.reconcile.context import LOCAL, Context
from fitment.core import digest

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}\Z")
_PREFIX = "fito1."
_LONGEST = 128
_SECRET_BYTES = 32  # 256 bits: no guessing, so a plain hash is enough


def create(context: Context, name: str, role: Role, ttl_s: float) -> tuple[str, Operator]:
    """A token for ``name``; its text is shown once. ``ttl_s`` of 0: it has no end.

    Raises:
        UserError: the name or the time cannot be.
        Conflict: somebody has or had this name.
    """
    if not _NAME.match(name) or name == LOCAL:
        raise UserError(f"'{name}' cannot name an operator (use A-Z a-z 0-9 . _ @ -, at most 64)")
    if not 0 <= ttl_s < float("inf"):
        raise UserError(f"a token's lifetime is 0 s (no end) or more, not {ttl_s:g}")
    if context.store.operators.get(name) is not None:
        raise Conflict(f"'{name}' has, or had, a token; names are not used twice: take another")
    text, now = _PREFIX + secrets.token_urlsafe(_SECRET_BYTES), context.clock()
    made = Operator(
        name=name, role=role, hash=_hash(text), created_at=now,
        expires_at=now + ttl_s if ttl_s else 0.0,
    )  # fmt: skip
    with context.store.transaction():
        context.store.operators.add(made)
        context.record("operator", "operator_created", name, {"role": role.value})
    return text, made


def revoke(context: Context, name: str) -> Operator:
    """End a token, at once.

    Raises:
        NotFound: there is none of this name.
    """
    known = context.store.operators.get(name)
    if known is None:
        raise NotFound(f"no operator is named '{name}'; see: fitment operator list")
    if known.revoked_at:
        return known
    ended = replace(known, revoked_at=context.clock())
    with context.store.transaction():
        context.store.operators.put(ended)
        context.record("operator", "operator_revoked", name, {"role": known.role.value})
    return ended


def is_token(text: str) -> bool:
    """Whether a text can be an operator's token at all."""
    return text.startswith(_PREFIX) and text.isascii() and len(text) <= _LONGEST


def holder(context: Context, text: str) -> Identity | None:
    """Whose token this is; None: nobody's, or it has ended."""
    found = context.store.operators.find(hash=_hash(text))
    return _identity(context, found[0]) if found else None


def named(context: Context, name: str) -> Identity | None:
    """What this operator may do now; None: nothing any more."""
    known = context.store.operators.get(name)
    return _identity(context, known) if known is not None else None


def _identity(context: Context, known: Operator) -> Identity | None:
    over = 0 < known.expires_at <= context.clock()
    return None if known.revoked_at or over else Identity(name=known.name, role=known.role)


def _hash(text: str) -> str:
    return digest.digest_bytes(text.encode())
