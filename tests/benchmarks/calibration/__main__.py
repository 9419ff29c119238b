"""``python -m tests.benchmarks.calibration OUT [--only digits] [--images 10000]``: this alone."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tests.benchmarks import calibration, serving
from tests.benchmarks.calibration.sensors import SENSORS


def main() -> int:
    """Measure, and write ``OUT/calibration-SUBJECT.json``; goes on where it was cut off."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", choices=calibration.SUBJECTS, action="append")
    parser.add_argument("--images", type=int, default=10_000, help="of each test set")
    parser.add_argument("--sensor", choices=tuple(SENSORS), action="append", help="of these alone")
    arguments = parser.parse_args()

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    only = tuple(arguments.only or calibration.SUBJECTS)
    bundles = serving.bundles(arguments.out, say) if "fashion_mnist" in only else {}
    found = calibration.measure(
        arguments.out, bundles, say, images=arguments.images, only=only,
        sensors=tuple(arguments.sensor or SENSORS),
    )  # fmt: skip
    for name, subject in found["subjects"].items():
        target = arguments.out / f"calibration-{name}.json"
        target.write_text(json.dumps(subject, indent=2) + "\n")
    for name in ("gate", "aim"):
        print(json.dumps({key: value[name] for key, value in found["subjects"].items()}, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
