"""How long is waited before something is done again."""

import pytest

from scalearn.pauses import pause_after, pause_for


def test_pauses_after_failures_grow_to_the_longest() -> None:
    assert [pause_after(failures, 0.25, 8.0) for failures in range(1, 8)] == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0]
    assert [pause_after(failures, 1.0, 60.0, 4.0) for failures in (1, 2, 3, 4)] == [1.0, 4.0, 16.0, 60.0]


def test_server_that_is_away_for_weeks_is_asked_again() -> None:
    assert pause_after(1_000_000, 1.0, 60.0) == 60.0


def test_what_costs_a_second_is_done_every_twenty() -> None:
    assert pause_for(1.0) == pytest.approx(20.0)
