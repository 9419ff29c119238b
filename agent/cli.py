"""``fitment-agent``: what people type on a device.

Every command answers people by default and scripts with ``--json``. Exit codes are those of
`agent.errors`.
"""

from __future__ import annotations

import argparse
import errno
import json
import logging
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from agent import config
from agent.errors import AgentError, PendingError, UnreachableError, WorkerError
from fitment import __version__
from fitment.core import plain

_ENROLL_DEADLINE_S = 60.0
_POLL_MOST_S = 60.0
_PERMANENT_EXIT = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run, and turn errors of ours into one line and an exit code."""
    arguments = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace, config.Settings], int] = arguments.command
    try:
        return command(arguments, _settings(arguments))
    except AgentError as error:
        print(f"fitment-agent: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:  # a full disk, a folder that may not be written
        print(f"fitment-agent: {_refused(error)}", file=sys.stderr)
        return AgentError.exit_code


def _refused(error: OSError) -> str:
    """What the operating system refused, in words."""
    place = error.filename2 or error.filename  # of two, the second is written to
    named = f"{place}: " if place else ""
    why = error.strerror or str(error)
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    advice = "make room on this disk and try again" if full else "check that path and its rights"
    return f"{named}{why}: {advice}"


def _settings(arguments: argparse.Namespace) -> config.Settings:
    return config.load(arguments.data_dir, file=arguments.config, environment=os.environ)


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--data-dir", type=Path, help="where the agent keeps its data")
    common.add_argument("--config", type=Path, help="settings file (default: DATA_DIR/config.toml)")
    common.add_argument("--json", action="store_true", help="answer as JSON")
    parser = argparse.ArgumentParser(prog="fitment-agent", description="Fitment on the device.")
    parser.add_argument("--version", action="version", version=f"fitment-agent {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    doctor = commands.add_parser("doctor", parents=[common], help="say what is right and wrong")
    doctor.set_defaults(command=_doctor)
    enroll = commands.add_parser(
        "enroll", parents=[common], help="join a fleet: with a token, or by an operator's word"
    )
    enroll.add_argument("--controller", required=True, metavar="HOST:PORT")
    enroll.add_argument(
        "--token", default="",
        help="one-time token of the controller; without: wait until an operator has compared the"
        " code that is shown, and approved it",
    )  # fmt: skip
    enroll.add_argument(
        "--wait", type=float, default=3600.0, metavar="SECONDS",
        help="how long to wait for an operator (default: an hour)",
    )  # fmt: skip
    enroll.add_argument("--device", default="", help="wished name; empty: the controller chooses")
    enroll.set_defaults(command=_enroll)
    run = commands.add_parser("run", parents=[common], help="be the agent, until SIGTERM")
    run.add_argument("--log-level", default="INFO", choices=("DEBUG", "INFO", "WARNING", "ERROR"))
    run.set_defaults(command=_run)
    serve = commands.add_parser(
        "serve", parents=[common], help="answer with a slot's model on local sockets, until SIGTERM"
    )
    serve.add_argument("--slot", required=True, help="whose model; its switches are followed")
    serve.add_argument("--port", type=int, help="listen on this port of 127.0.0.1 as well")
    serve.set_defaults(command=_serve)
    _add_shadow(commands, common)
    status = commands.add_parser(
        "status", parents=[common], help="what the slots hold and how deployments ended"
    )
    status.set_defaults(command=_status)
    return parser


def _add_shadow(commands: Any, common: argparse.ArgumentParser) -> None:
    shadow = commands.add_parser(
        "shadow", parents=[common],
        help="let a bundle see what a served slot is asked, and compare its answers, unheard",
    )  # fmt: skip
    shadow.add_argument("--slot", required=True, help="one that `serve` serves")
    what = shadow.add_mutually_exclusive_group(required=True)
    what.add_argument("--bundle", type=Path, help="unpacked folder of the candidate")
    what.add_argument("--end", action="store_true", help="take out what is in the shadow")
    shadow.add_argument("--overlay", type=Path, help="a calibration's, for the candidate")
    shadow.add_argument("--inputs", type=int, default=100, help="live samples to see (100)")
    shadow.add_argument("--timeout-s", type=float, default=600.0, help="to wait for them (600)")
    shadow.add_argument("--agreement", type=float, help="exit 1 below this share, 0..1")
    shadow.set_defaults(command=_shadow)


def _doctor(arguments: argparse.Namespace, settings: config.Settings) -> int:
    from agent import doctor, status
    from agent.desk import Folders

    found = doctor.diagnose(
        Path(settings.hardware.root), settings.hardware, settings.options, settings.data_dir,
        allowance=status.allowance(Folders(data_dir=settings.data_dir), settings),
    )  # fmt: skip
    _answer(arguments, plain.to_plain(found), doctor.render(found))
    return 0 if found.healthy else 1


def _enroll(arguments: argparse.Namespace, settings: config.Settings) -> int:
    from agent import durable
    from agent.desk import Folders
    from agent.jobs import EnrollJob, EnrollResult

    folders = Folders(data_dir=settings.data_dir.absolute())
    durable.make_folder(folders.keys, mode=0o700)
    job = EnrollJob(
        result="", controller=arguments.controller, token=arguments.token,
        device=arguments.device or settings.device, keys=str(folders.keys),
    )  # fmt: skip
    result: EnrollResult = _admitted(folders.jobs, job, wait_s=arguments.wait)
    link = f"MQTT at {result.mqtt}" if result.mqtt else "the gRPC session"
    _answer(
        arguments,
        plain.to_plain(result),
        f"Enrolled as '{result.device}', over {link}. Keys are in {folders.keys}.",
    )
    return 0


def _admitted(folder: Path, job: Any, *, wait_s: float) -> Any:
    """Enrol; without a token, ask again, ever more patiently, until an operator has answered.

    Raises:
        UnreachableError: the controller does not answer, or no operator has in ``wait_s``.
        WorkerError: it was refused.
    """
    until, pause_s, said = time.monotonic() + wait_s, 2.0, ""
    while True:
        found = _once(folder, job)
        if not isinstance(found, UnreachableError):
            return found
        waits = isinstance(found, PendingError)
        if job.token or not (waits or said):
            raise found
        if waits and str(found) != said:
            said = str(found)
            print(f"fitment-agent: {said}", file=sys.stderr, flush=True)
        left_s = until - time.monotonic()
        if left_s <= 0:
            raise UnreachableError(
                f"{said}; nobody did in {wait_s:g} s: the same command goes on waiting"
            )
        pause_s = min(_POLL_MOST_S, max(pause_s * 1.5, getattr(found, "retry_after_s", 0.0)))
        time.sleep(min(left_s, pause_s * random.uniform(0.8, 1.2)))


def _once(folder: Path, job: Any) -> Any:
    """What enrolling gave, or why the controller, or its operator, says nothing yet."""
    try:
        return _run_worker(folder, "enroll", job)
    except UnreachableError as error:
        return error


def _run_worker(folder: Path, worker: str, job: Any) -> Any:
    """Run a worker to its end.

    Raises:
        UnreachableError: the controller does not answer.
        WorkerError: it failed otherwise; the message is the worker's.
    """
    from agent.runner import ProcessRunner

    started = ProcessRunner(folder).start(
        worker, job, deadline_s=time.monotonic() + _ENROLL_DEADLINE_S
    )
    while True:
        finished = started.poll(time.monotonic())
        if finished is None:
            time.sleep(0.02)
            continue
        if finished.failure is not None:
            if finished.failure.code == "pending":
                raise PendingError(finished.failure.message, finished.failure.retry_after_s or 0.0)
            if finished.failure.code in ("unavailable", "busy"):
                raise UnreachableError(finished.failure.message)
            error = WorkerError(finished.failure.message)
            error.exit_code = _PERMANENT_EXIT if finished.failure.permanent else 1
            raise error
        return finished.result


def _run(arguments: argparse.Namespace, settings: config.Settings) -> int:
    """Until SIGTERM or SIGINT."""
    from agent import build, notify

    beat = notify.from_environment(os.environ, time.monotonic)
    logging.basicConfig(
        level=arguments.log_level, stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )  # fmt: skip
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with build.supervisor(lambda: _settings(arguments), file=arguments.config) as supervisor:
        logging.getLogger(__name__).info("action=start data_dir=%s", settings.data_dir)
        supervisor.run(stop, beat)
    return 0


def _serve(arguments: argparse.Namespace, settings: config.Settings) -> int:
    """Until SIGTERM or SIGINT, or the worker's own end."""
    from agent import serving
    from agent.desk import Folders

    if arguments.port is not None:
        settings = config.with_port(settings, arguments.port)
    served = serving.start(Folders(data_dir=settings.data_dir.absolute()), settings, arguments.slot)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: served.end())
    served.wait_until_ready()
    _answer(arguments, plain.to_plain(served.place), serving.render(served.place))
    sys.stdout.flush()
    result = served.wait()
    words = f"Answered {result.requests} requests, refused or failed {result.errors}."
    _answer(arguments, plain.to_plain(result), words)
    return 0


def _shadow(arguments: argparse.Namespace, settings: config.Settings) -> int:
    from agent import shadowing
    from agent.desk import Folders

    folders = Folders(data_dir=settings.data_dir.absolute())
    if arguments.end:
        shadowing.end(folders, settings, arguments.slot)
        _answer(arguments, {"shadow": None}, f"Nothing is in the shadow of slot {arguments.slot}.")
        return 0
    asked = shadowing.Asked(
        slot=arguments.slot, bundle=arguments.bundle, overlay=arguments.overlay,
        inputs=arguments.inputs, timeout_s=arguments.timeout_s, agreement_min=arguments.agreement,
    )  # fmt: skip
    found = shadowing.compare(folders, settings, asked, lambda text: print(text, file=sys.stderr))
    _answer(arguments, plain.to_plain(found), shadowing.render(found))
    return 0 if found.good else 1


def _status(arguments: argparse.Namespace, settings: config.Settings) -> int:
    from agent import status
    from agent.desk import Folders

    found = status.read(Folders(data_dir=settings.data_dir), settings)
    _answer(arguments, plain.to_plain(found), status.render(found))
    return 0


def _answer(arguments: argparse.Namespace, value: object, words: str) -> None:
    print(json.dumps(value, indent=2) if arguments.json else words)
