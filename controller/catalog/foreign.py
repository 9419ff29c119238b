"""The one door for exceptions of code that is not ours.

A user's workload, and the libraries a rung of a fit runs through, may raise anything. Here it
becomes one error of our tree, with the last lines of the traceback, and nowhere else.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from controller.errors import FitmentError

SHOWN_FRAMES = 4


@contextlib.contextmanager
def translated(
    make: Callable[[str], FitmentError], what: str, *, below: Path | None = None
) -> Iterator[None]:
    """Run the block; anything it raises becomes ``make(message)``.

    Our own errors pass through as they are. ``what`` opens the message and says what was being
    done. With ``below``, only frames of files in that folder are shown: the user's own lines,
    not the loader's.

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
        raise make(f"{what}: {summary(error, below=below)}") from error


def summary(error: BaseException, *, below: Path | None = None) -> str:
    """The exception in one line, then where it was raised, innermost frame last."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if below is not None and Path(f.filename).is_relative_to(below)]
    shown = (own or list(frames))[-SHOWN_FRAMES:]
    lines = [f"{type(error).__name__}: {error}"]
    for frame in shown:
        name = Path(frame.filename).name
        lines.append(f"  {name}, line {frame.lineno}, in {frame.name}: {frame.line or ''}".rstrip())
    return "\n".join(lines)
