"""The device's half of MQTT 3.1.1 as bytes: what modelled agents say and hear. No sockets.

As much of the protocol as a device of ours needs (OASIS MQTT 3.1.1, chapters 2 and 3): one clean
session with a will, one subscription, publishes of quality 0 and 1. Only modelled devices speak
it; real ones have `agent.transport.mqtt`, whose library selects on at most 1,024 sockets.
"""

from __future__ import annotations

from dataclasses import dataclass

_CONNECT, _CONNACK, _PUBLISH, _PUBACK = 0x10, 0x20, 0x30, 0x40
_SUBSCRIBE, _SUBACK, _PINGRESP = 0x82, 0x90, 0xD0
PING = b"\xc0\x00"
DISCONNECT = b"\xe0\x00"
_LENGTH_BYTES = 4  # of a packet's length at most
_NAME = b"\x00\x04MQTT\x04"  # protocol 3.1.1
_CLEAN, _WILL, _WILL_RETAIN = 0x02, 0x04, 0x20


class ProtocolError(ValueError):
    """Bytes that no broker sends."""


@dataclass(frozen=True, slots=True)
class Connack:
    """Whether we are let in; 0 is yes."""

    code: int


@dataclass(frozen=True, slots=True)
class Suback:
    """The subscription stands, or not (128)."""

    code: int


@dataclass(frozen=True, slots=True)
class Publish:
    """A message for us; a packet id of 0 wants no answer."""

    topic: str
    payload: bytes
    packet_id: int


@dataclass(frozen=True, slots=True)
class Puback:
    """The broker has what we published."""

    packet_id: int


Packet = Connack | Suback | Publish | Puback


def connect(client: str, *, keepalive_s: int, will_topic: str, will: bytes) -> bytes:
    """A clean session whose retained will has quality 1."""
    flags = _CLEAN | _WILL | _WILL_RETAIN | (1 << 3)
    body = _NAME + bytes((flags,)) + keepalive_s.to_bytes(2, "big")
    return _packet(_CONNECT, body + _text(client) + _text(will_topic) + _sized(will))


def subscribe(packet_id: int, topic_filter: str) -> bytes:
    """Ask for a topic with quality 1."""
    return _packet(_SUBSCRIBE, packet_id.to_bytes(2, "big") + _text(topic_filter) + b"\x01")


def publish(topic: str, payload: bytes, *, packet_id: int, retain: bool) -> bytes:
    """A message with quality 1."""
    head = _PUBLISH | 0x02 | int(retain)
    return _packet(head, _text(topic) + packet_id.to_bytes(2, "big") + payload)


def puback(packet_id: int) -> bytes:
    """We have what the broker published."""
    return bytes((_PUBACK, 2)) + packet_id.to_bytes(2, "big")


class Reader:
    """Puts packets together from whatever pieces they come in."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> list[Packet]:
        """Packets that are whole now.

        Raises:
            ProtocolError: the bytes are no packets for a client.
        """
        self._held += data
        found: list[Packet] = []
        at = 0
        while True:
            body = self._body(at)
            if body is None:
                break
            start, end = body
            packet = _read(self._held[at], self._held[start:end])
            if packet is not None:
                found.append(packet)
            at = end
        self._held = self._held[at:]
        return found

    def _body(self, at: int) -> tuple[int, int] | None:
        """Where the body of the packet at a place begins and ends; None: it is not all there."""
        length = 0
        for number in range(_LENGTH_BYTES):
            place = at + 1 + number
            if place >= len(self._held):
                return None
            length |= (self._held[place] & 0x7F) << (7 * number)
            if not self._held[place] & 0x80:
                end = place + 1 + length
                return (place + 1, end) if end <= len(self._held) else None
        raise ProtocolError("a packet's length has more than four bytes")


def _read(head: int, body: bytes) -> Packet | None:
    kind = head & 0xF0
    if kind == _PUBLISH:
        return _read_publish(head, body)
    if kind == _PINGRESP:
        return None
    if len(body) < 2:
        raise ProtocolError(f"a packet of kind {kind >> 4} with {len(body)} bytes")
    if kind == _PUBACK:
        return Puback(int.from_bytes(body[:2], "big"))
    if kind == _CONNACK:
        return Connack(body[1])
    if kind == _SUBACK:
        return Suback(body[-1])
    raise ProtocolError(f"a packet of kind {kind >> 4} is none for a client")


def _read_publish(head: int, body: bytes) -> Publish:
    length = int.from_bytes(body[:2], "big")
    quality = (head >> 1) & 3
    at = 2 + length
    after = at + (2 if quality else 0)
    if quality > 1 or after > len(body):
        raise ProtocolError("a message of quality 2, or cut short")
    number = int.from_bytes(body[at:after], "big") if quality else 0
    return Publish(body[2:at].decode(), body[after:], number)


def _packet(head: int, body: bytes) -> bytes:
    length, digits = len(body), bytearray()
    while True:
        length, digit = length >> 7, length & 0x7F
        digits.append(digit | (0x80 if length else 0))
        if not length:
            return bytes((head,)) + bytes(digits) + body


def _text(text: str) -> bytes:
    return _sized(text.encode())


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data
