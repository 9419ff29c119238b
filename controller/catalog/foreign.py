"""The one door for exceptions of code that is not ours.

A user's workload, and the libraries a rung of a fit runs through, may raise anything. Here it
becomes one error of our tree, in one line that ends with where it was raised, and nowhere else.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from controller.errors import FitmentError

SHOWN_FRAMES = 2
MESSAGE_LIMIT = 400  # characters of a library's message; some print whole tensors


@contextlib.contextmanager
def translated(
    make: Callable[[str], FitmentError], what: str, *, below: Path | None = None, mend: str = ""
) -> Iterator[None]:
    """Run the block; anything it raises becomes ``make(message)``.

    Our own errors pass through as they are. ``what`` opens the message and says what was being
    done, ``mend`` ends it and says what to do. With ``below``, only frames of files in that folder
    are shown: the user's own lines, not the loader's.

    Raises:
        FitmentError: what ``make`` built, from whatever the block raised.
    """
    try:
        yield
    except FitmentError:
        raise
    except MemoryError as error:
        raise make(f"{what}: it ran out of memory; free some or give it smaller data") from error
    except (Exception, SystemExit) as error:
        advice = f"; {mend}" if mend else ""
        raise make(f"{what}: {summary(error, below=below)}{advice}") from error


def summary(error: BaseException, *, below: Path | None = None) -> str:
    """The exception and where it was raised, innermost frame first, in one line.

    One line, because it crosses processes and the wire into terminals, logs and JSON.
    """
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if below is None or Path(f.filename).is_relative_to(below)]
    shown = own[-SHOWN_FRAMES:]
    message = " ".join(str(error).split())
    if len(message) > MESSAGE_LIMIT:
        message = f"{message[:MESSAGE_LIMIT]}…"
    named = f"{type(error).__name__}: {message}" if message else type(error).__name__
    where = " < ".join(_place(frame) for frame in reversed(shown))
    return f"{named} ({where})" if where else named


def _place(frame: traceback.FrameSummary) -> str:
    line = " ".join((frame.line or "").split())
    return f"{Path(frame.filename).name}, line {frame.lineno}, in {frame.name}: {line}".rstrip(": ")
