"""Ports for servers that tests start."""

import contextlib
import random
import socket


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on, all different.

    They lie below those that the kernel gives to whoever asks for any, and above those of Ray's workers: nobody else takes them meanwhile.
    """
    found: list[int] = []
    for port in random.SystemRandom().sample(range(20_000, 32_000), 1000):
        if len(found) < count:
            with contextlib.suppress(OSError), socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
                found.append(port)
    assert len(found) == count
    return found
