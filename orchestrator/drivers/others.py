"""What other living drivers in a store need: the name of their sweep, and the jobs that they have found done."""

from collections.abc import Iterable

from orchestrator.artifacts.manifest import named_by
from orchestrator.artifacts.store import Store
from orchestrator.drivers.heartbeat import Driver, living
from scalearn.errors import UserError


def refuse_name(store: Store, sweep: str, content: str) -> None:
    """Refuse a sweep if another sweep of the same name is being run.

    Args:
        store: Where the sweep is to run.
        sweep: The sweep's name.
        content: Digits that stand for this sweep's jobs.

    Raises:
        UserError: A living driver runs other jobs under this name.
    """
    for driver in living(store, lambda driver: driver.sweep == sweep and driver.content not in ("", content)):
        raise UserError(
            f"Another sweep named {sweep!r} with other jobs is being run in {store.url} by {driver.process}: wait for its end, stop it "
            "with `scalearn cancel`, or give this one another name."
        )


def refuse_what_is_relied_on(store: Store, nodes: Iterable[str], own: str) -> None:
    """Refuse to remove finished jobs that other drivers may have counted as done.

    Args:
        store: Where the jobs lie.
        nodes: The jobs that would be removed.
        own: This driver's name.

    Raises:
        UserError: A living driver's sweep names one of the jobs.
    """
    wanted = set(nodes)

    def relied_on(driver: Driver) -> set[str]:
        return wanted & named_by(store, driver.sweep) if driver.sweep and driver.name != own else set()

    for driver in living(store, relied_on) if wanted else ():
        raise UserError(
            f"{min(relied_on(driver))} belongs to sweep {driver.sweep!r}, which {driver.process} runs and may have counted it as done: "
            "wait for its end, or stop it with `scalearn cancel`, before --force."
        )
