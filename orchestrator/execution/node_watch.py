"""Whether nodes have announced their end: drained by an autoscaler or for a spot notice, or because `ray start` was asked to end."""

import logging
import threading

import ray
from ray._private.state import state as global_state  # which nodes are drained has no public name

from scalearn.secrets import clause

LOOK_SECONDS = 1.0

logger = logging.getLogger(__name__)


def drained_nodes() -> frozenset[str]:
    """Return the ids of the nodes that are being drained. Ray places nothing there any more, and they cannot be called back."""
    return frozenset(global_state.get_draining_nodes())


class NodeWatch:
    """A thread of a worker that looks once a second whether the worker's node is drained, so that training need not wait for the answer."""

    def __init__(self) -> None:
        """Begin to look."""
        self._node = ray.get_runtime_context().get_node_id()
        self._drained = threading.Event()
        threading.Thread(target=self._look, name="node watch", daemon=True).start()

    def is_drained(self) -> bool:
        """Tell whether the node has announced its end."""
        return self._drained.is_set()

    def _look(self) -> None:
        while not self._drained.wait(LOOK_SECONDS):
            try:
                if self._node in drained_nodes():
                    self._drained.set()
            except Exception as error:  # the head is away or starts anew: Ray has many errors for this
                logger.debug("It is not known whether the node is drained: %s", clause(error))
