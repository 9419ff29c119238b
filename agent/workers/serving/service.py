"""The loaded model behind every socket: who is bound to it, its swaps, its shadow.

A request is bound to a model for as long as it takes; a swap changes what the next one is bound
to. The old model goes when nobody is bound to it any more.
"""

from __future__ import annotations

import collections
import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any

from agent.domain.batching import Policy
from agent.jobs import RuntimeOptions, ServingOptions
from agent.workers import goldens, installed
from agent.workers.child import JobError
from agent.workers.goldens import Answer
from agent.workers.installed import Loaded
from agent.workers.runtimes.base import Array
from agent.workers.serving import served as serving
from agent.workers.serving import turned
from agent.workers.serving.batcher import Batcher, Done, Run
from agent.workers.serving.served import Served
from agent.workers.serving.shadow import Seen, Shadow

Joined = Callable[[Future[Done]], object]


class Service:
    """Every method may be called by any thread."""

    def __init__(
        self,
        folder: str,
        overlay: str,
        options: RuntimeOptions,
        *,
        name: str = "",
        serving_options: ServingOptions | None = None,
    ) -> None:
        """Load and check.

        Raises:
            JobError: the bundle cannot be loaded, or ``golden_failed``.
        """
        self._options = options
        self._serving = serving_options or ServingOptions()
        self._name = name
        self._lock = threading.Lock()  # over what is bound, and the counters
        self._swapping = threading.Lock()  # one load at a time
        self._bound: collections.Counter[Served] = collections.Counter()
        self._errors: collections.Counter[str] = collections.Counter()
        self._shadow: Shadow | None = None
        self.requests = 0
        self.swaps = 0
        self.refused: Mapping[str, str] | None = None  # what the slot leads to and is not served
        self._served = self._load(folder, overlay)
        limit_ms = self._serving.p99_limit_ms
        policy = Policy(
            max_rows=self._serving.max_batch,
            max_delay_s=self._serving.max_delay_ms / 1e3,
            p99_limit_s=None if limit_ms is None else limit_ms / 1e3,
        )
        waiting = self._serving.max_waiting
        self._batcher = Batcher(policy, max_waiting=waiting, on_run=self._ran)

    @property
    def loaded(self) -> Loaded:
        """What answers now."""
        return self._served.loaded

    @property
    def errors(self) -> int:
        """Requests that failed."""
        with self._lock:
            return sum(self._errors.values())

    @contextlib.contextmanager
    def bound(self) -> Iterator[Served]:
        """The model for one request; it stays loaded until the end of the block."""
        with self._lock:
            served = self._served
            self._bound[served] += 1
        try:
            yield served
        finally:
            with self._lock:
                self._bound[served] -= 1
                last = not self._bound[served] and served is not self._served
                if not self._bound[served]:
                    del self._bound[served]
            if last:
                served.close()

    def names(self, served: Served) -> tuple[str, ...]:
        """Names that the model answers to: that of its slot, and its own."""
        names = (self._name, served.loaded.bundle.manifest.model)
        return tuple(dict.fromkeys(name for name in names if name)) or ("model",)

    def infer(
        self, served: Served, inputs: Sequence[Array], *, joined: Joined | None = None
    ) -> tuple[Done, list[Array]]:
        """Run ``inputs``, in each one's own or in real values; wait for the answer.

        Args:
            served: what `bound` gave.
            inputs: one array an input, in the model's order.
            joined: gets the future, by which the request can be cancelled while it waits.

        Returns:
            How it ran, and the outputs as they are offered.

        Raises:
            JobError: ``input_mismatch``, ``busy``, ``run_failed``, ``cancelled``, …
        """
        came_ns = time.perf_counter_ns()
        rows = served.samples_in([values.shape for values in inputs])
        pairs = zip(served.inputs, inputs, strict=True)
        feeds = [serving.native(tensor, values) for tensor, values in pairs]
        future = self._batcher.submit(served, feeds, rows)
        if joined is not None:
            joined(future)
        try:
            done = future.result()
        except CancelledError as error:
            raise JobError("cancelled", "the caller no longer waits for it") from error
        outputs = [
            serving.offered(tensor, values)
            for tensor, values in zip(served.outputs, done.outputs, strict=True)
        ]
        with self._lock:
            self.requests += 1
        latency_ns = time.perf_counter_ns() - came_ns
        served.meter.answered(latency_ns=latency_ns, queue_ns=done.queue_ns, run_ns=done.run_ns)
        return done, outputs

    def failed(self, code: str) -> None:
        """Count a request that was refused or failed."""
        with self._lock:
            self._errors[code] += 1
        self._served.meter.failed()

    def check(self) -> Answer:
        """Whether what is loaded still answers its golden inputs."""
        with self.bound() as served, served.session_lock:
            return self._answer_goldens(served.own)

    def swap(self, folder: str, overlay: str) -> Served:
        """Load beside the running model, check, then switch: a bad bundle changes nothing.

        Raises:
            JobError: as at the start.
        """
        with self._swapping:
            served = self._load(folder, overlay)
            with self._lock:
                before, self._served = self._served, served
                self.swaps += 1
                last = not self._bound[before]
                if last:
                    del self._bound[before]
            self._batcher.forget()
            if last:
                before.close()
            shadow = self._shadow
            if shadow is not None and _same(shadow.candidate.loaded, served.loaded):
                self._end_shadow()  # there is nothing left to compare
        return served

    def shadow(self, folder: str, overlay: str) -> Served | None:
        """Let a candidate see what is served; an empty folder ends it.

        Raises:
            JobError: the candidate cannot be loaded, or ``golden_failed``.
        """
        with self._swapping:
            candidate = self._load(folder, overlay) if folder else None
            self._end_shadow()
            if candidate is not None:
                self._shadow = Shadow(candidate, cap=self._serving.max_batch)
        return candidate

    def report(self) -> dict[str, Any]:
        """Metrics and input statistics, as JSON."""
        with self.bound() as served:
            with self._lock:
                errors = dict(self._errors)
            shadow = self._shadow
            return {
                "batching": {
                    "cut": served.cut.value, "why": served.why, "cap": self._batcher.cap,
                    "max_delay_ms": self._serving.max_delay_ms,
                    "p99_limit_ms": self._serving.p99_limit_ms,
                },
                "errors_by_code": errors,
                **served.meter.report(),
                "inputs": served.watch.report(),
                "predictions": served.predictions.report(),
                "shadow": None if shadow is None else shadow.report(),
            }  # fmt: skip

    def close(self) -> None:
        """Answer what waits, then end."""
        self._batcher.close()
        with self._swapping:
            self._end_shadow()

    def _ran(self, run: Run) -> None:
        served = run.served
        served.meter.ran(run.rows, run.run_ns)
        requests = [item.feeds for item in run.requests]
        served.watch.ran(requests)
        served.predictions.ran(run.outputs[0], run.rows)
        shadow = self._shadow
        if shadow is not None:
            output = serving.offered(served.outputs[0], run.outputs[0])
            shadow.show(
                Seen(
                    requests=requests, tensors=served.inputs, rows=run.rows,
                    output=output, run_ns=run.run_ns,
                )
            )  # fmt: skip

    def _end_shadow(self) -> None:
        before, self._shadow = self._shadow, None
        if before is not None:
            before.close()

    def _load(self, folder: str, overlay: str) -> Served:
        loaded = installed.load(installed.read(folder), self._options, overlay=overlay)
        answer = self._answer_goldens(loaded)
        if not answer.golden_ok:
            loaded.session.close()
            raise JobError("golden_failed", f"{folder} answers wrong: {answer.reason}")
        try:
            shown = turned.as_chosen(loaded)
        except JobError:
            loaded.session.close()
            raise
        return serving.examine(
            loaded, installed.goldens(loaded.bundle), shown=shown,
            watch_every=self._serving.input_statistics_every,
        )  # fmt: skip

    def _answer_goldens(self, loaded: Loaded) -> Answer:
        known = installed.goldens(loaded.bundle)
        return goldens.evaluate_pristine(loaded, known, self._options)


def _same(one: Loaded, other: Loaded) -> bool:
    return (one.bundle.variant, one.overlay) == (other.bundle.variant, other.overlay)
