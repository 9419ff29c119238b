"""How a rollout stands, asked on a thread of its own: a controller at work may answer late."""

from __future__ import annotations

import threading

from controller.client import Client
from controller.domain import fleet
from controller.errors import FitmentError
from controller.reconcile.rolling import RolloutPlan
from controller.simulator.world import OVER
from fitment.core import plain

LOOK_S = 1.0


class Watch:
    """Begins a rollout and looks at it once a second."""

    def __init__(self, client: Client) -> None:
        self.rollout: fleet.Rollout | None = None
        self._client = client
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self, release: str, plan: RolloutPlan) -> None:
        """Begin the rollout.

        Raises:
            UserError: no device has said yet what it is.
        """
        made = self._client.create_rollout(release, **plain.to_plain(plan))
        self.rollout = made.rollout
        self._thread.start()

    def is_over(self) -> bool:
        """Whether it completed, halted or was cancelled, as far as is known."""
        return self.rollout is not None and self.rollout.state in OVER

    def stop(self) -> None:
        """Ask no more."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(LOOK_S):
            try:
                listed = {made.id: made for made in self._client.rollouts()}
            except FitmentError:
                continue  # busy: it is asked again
            if self.rollout is not None:
                self.rollout = listed.get(self.rollout.id, self.rollout)
