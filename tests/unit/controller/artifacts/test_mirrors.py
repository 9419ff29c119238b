"""Addresses of mirrors: one file for each digest, and nothing else."""

from __future__ import annotations

import pytest

from controller.artifacts import mirrors
from controller.errors import UserError
from fitment.core import digest

ARCHIVE = digest.digest_bytes(b"weights")
NAME = digest.hex_of(ARCHIVE)


def test_no_setting_is_no_mirror() -> None:
    assert mirrors.parse("").urls(ARCHIVE) == ()


def test_the_best_comes_first() -> None:
    made = mirrors.parse(" https://a.example/m/{folder}/{hex}\n http://10.0.0.7:8000/{hex}.tar.xz ")
    assert made.urls(ARCHIVE) == (
        f"https://a.example/m/{NAME[:2]}/{NAME}", f"http://10.0.0.7:8000/{NAME}.tar.xz",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models.example/{hex}", "begins with https://"),
        ("ftp://models.example/{hex}", "begins with https://"),
        ("https:///{hex}", "begins with https://"),
        ("https://models.example/model.tar.xz", "one file for all models"),
        ("https://me:secret@models.example/{hex}", "of models.example holds a name or a password"),
    ],
)
def test_a_wrong_address_says_what_is_missing(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        mirrors.parse(text)


def test_only_a_digest_names_a_file() -> None:
    with pytest.raises(ValueError, match="not a digest"):
        mirrors.parse("https://a.example/{hex}").urls("../../etc/passwd")
