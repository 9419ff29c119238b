"""How far a device is believed that has seen more than is known here.

A store that was restored from a backup has forgotten generations, counters and versions that it
gave out. Devices remember them, so their word moves the controller on. But what one device says
of a number that is the whole fleet's, all others have to bear: a liar must not use it up.
"""

from __future__ import annotations

LEAP = 1_000_000
"""Most generations or counters that one word may add. They are given out singly, so a truthful
device is ahead by some hundreds; a liar needs 10^13 words to come to the end of 64 bits."""
LEAP_S = 400 * 86_400
"""The same for versions of signed metadata, which are times in seconds: a controller's clock may
have been ahead, once."""


def believed(known: int, said: int, leap: int = LEAP) -> int:
    """What counts from now on: ``said`` where it is above ``known`` by ``leap`` at most."""
    return said if known < said <= known + leap else known
