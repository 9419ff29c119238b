"""Why nobody lets this device in, where its own papers are the reason.

A broker or a gateway that refuses a certificate just closes the line, and libraries then say
"socket closed" or "unspecified error". The papers lie here, so we ask them ourselves: they shake
hands with each other in memory, with the standard library alone, after a connection failed.
"""

from __future__ import annotations

import contextlib
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.clock import EARLIEST_UNIX

_ROUNDS: Final = 6
"""A handshake takes two or three; a library that needs more is left alone."""
_EXPIRED: Final = 10
"""X509_V_ERR_CERT_HAS_EXPIRED"""
_ENROL_AGAIN: Final = "put the right one back, or enrol this device again: fitment-agent enroll"


@dataclass(frozen=True, slots=True, kw_only=True)
class Papers:
    """What a device shows, and whom it believes; all PEM files."""

    ca: Path
    certificate: Path
    key: Path


def explain(why: str, papers: Papers, address: str) -> str:
    """``why`` a connection failed, or the reason behind it where the papers tell one."""
    own = _fault(papers)
    if own:
        return own
    if "CERTIFICATE_VERIFY_FAILED" in why:
        return (
            f"whoever answers at {address} is not certified by the authority in {papers.ca}: it is"
            " another controller, or this device was enrolled with another; check the address, or"
            " enrol again: fitment-agent enroll"
        )
    if time.time() < EARLIEST_UNIX:
        return (
            f"{why}; this device's clock stands in {time.gmtime().tm_year}, so it cannot tell"
            f" whether {papers.certificate} has expired: while nobody answers, the agent tries to"
            " renew it by its key"
        )
    return why


def _fault(papers: Papers) -> str:
    """What is wrong with our own papers; empty: nothing that can be told from here."""
    try:
        _shake_hands(papers)
    except ssl.SSLCertVerificationError as error:
        if error.verify_code == _EXPIRED:
            return f"{papers.certificate} has expired: the agent renews it by its key"
        return (
            f"{papers.certificate} is not valid by the authority in {papers.ca}"
            f" ({error.verify_message}): {_ENROL_AGAIN}"
        )
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            return f"{papers.key} is not the key of {papers.certificate}: {_ENROL_AGAIN}"
        return f"{papers.certificate}, {papers.key} or {papers.ca} is damaged: {_ENROL_AGAIN}"
    except OSError as error:
        return f"cannot read {error.filename} ({error.strerror}): {_ENROL_AGAIN}"
    return ""


def _shake_hands(papers: Papers) -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = _context(papers, server=True).wrap_bio(to_server, to_client, server_side=True)
    client = _context(papers, server=False).wrap_bio(to_client, to_server)
    for side in (client, server) * _ROUNDS:
        with contextlib.suppress(ssl.SSLWantReadError):  # the other side's turn
            side.do_handshake()


def _context(papers: Papers, *, server: bool) -> ssl.SSLContext:
    """One end. The server's asks for a device's certificate, as a controller does."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED if server else ssl.CERT_NONE
    context.load_cert_chain(papers.certificate, papers.key)
    context.load_verify_locations(papers.ca)
    return context
