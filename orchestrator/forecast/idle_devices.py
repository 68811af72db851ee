"""Which parts of simulated devices are free, and where a warm worker of the same kind waits. Pure Python."""

from collections import Counter
from collections.abc import Hashable, Sequence
from heapq import heappop, heappush

_ROUNDING = 1e-6


class IdleDevices:
    """Devices that packs share by parts. A pack may also take several whole devices."""

    def __init__(self, count: int) -> None:
        """Begin with free devices and no warm workers."""
        self._free = [1.0] * count
        self._candidates: dict[float, list[int]] = {}
        """For each part, the devices that may have room for it. A look at a device tells whether it has."""
        self._warm: list[Counter[Hashable]] = [Counter() for _ in range(count)]

    def take(self, placement: Hashable, amount: float) -> tuple[tuple[int, ...], bool] | None:
        """Take room for a pack on the first devices that have it.

        Args:
            placement: A key that is equal for workers that can take each other's packs.
            amount: Part of one device, or a number of whole devices.

        Returns:
            The devices, and whether a worker waits there. None: there is no room.
        """
        part, wanted = min(1.0, amount), max(1, round(amount))
        heap = self._candidates.setdefault(part, list(range(len(self._free))))
        found: list[int] = []
        while heap and len(found) < wanted:
            device = heappop(heap)
            if self._free[device] + _ROUNDING >= part and device not in found:
                found.append(device)
        if len(found) == wanted:
            for device in found:
                self._free[device] -= part
        for device in found:
            if self._free[device] + _ROUNDING >= part:
                heappush(heap, device)
        return (tuple(found), self._reuse(found[0], placement)) if len(found) == wanted else None

    def give_back(self, devices: Sequence[int], placement: Hashable, amount: float) -> None:
        """Free the room of a pack. Its worker stays."""
        self._warm[devices[0]][placement] += 1
        for device in devices:
            self._free[device] += min(1.0, amount)
            for part, heap in self._candidates.items():
                if self._free[device] + _ROUNDING >= part:
                    heappush(heap, device)

    def _reuse(self, device: int, placement: Hashable) -> bool:
        """Take a warm worker. A new worker takes the place of idle ones of other kinds."""
        warm = self._warm[device]
        if warm[placement]:
            warm[placement] -= 1
            return True
        warm.clear()
        return False
