"""The order of ready jobs and what shares a pack."""

from orchestrator.packing import Candidate, PackQueue, candidate, expected_work, kind
from tests.orchestrator.doubles import source, transfer, two_stages


def make(node: str, blocks: int = 0, work: float = 1.0, kind: str = "a") -> Candidate:
    return Candidate(node, blocks, work, kind)


def drain(queue: PackQueue) -> list[tuple[str, ...]]:
    return list(iter(queue.take, ()))


def test_order_is_most_blocking_then_longest_then_first_come():
    queue = PackQueue()
    for item in (make("short", work=1), make("long", work=9), make("blocks", blocks=3, work=0.1), make("long2", work=9)):
        queue.add(item)
    assert drain(queue) == [("blocks",), ("long",), ("long2",), ("short",)]


def test_job_that_comes_later_and_blocks_more_goes_first():
    queue = PackQueue()
    queue.add(make("a"))
    queue.add(make("b"))
    assert queue.take() == ("a",)
    queue.add(make("c", blocks=1))
    assert drain(queue) == [("c",), ("b",)]


def test_pack_takes_only_its_own_kind_up_to_its_size():
    queue = PackQueue(pack_size=3)
    for number in range(4):
        queue.add(make(f"a{number}"))
    queue.add(make("b0", kind="b"))
    assert drain(queue) == [("a0", "a1", "a2"), ("a3",), ("b0",)]
    assert len(queue) == 0


def test_discarded_job_is_not_handed_out_and_may_come_back():
    queue = PackQueue(pack_size=2)
    queue.add(make("a"))
    queue.add(make("b"))
    queue.discard("a")
    assert drain(queue) == [("b",)]
    queue.add(make("a"))
    assert drain(queue) == [("a",)]


def test_job_added_twice_is_handed_out_once():
    queue = PackQueue()
    queue.add(make("a"))
    queue.add(make("a"))
    assert drain(queue) == [("a",)]


def test_kind_is_the_same_for_seeds_and_differs_for_targets_and_sources():
    first, second = source("s0"), source("s1")
    same = [kind(transfer("t0", [first, second], seed)) for seed in (0, 1)]
    assert same[0] == same[1]
    assert kind(transfer("t1", [first, second])) != same[0]
    assert kind(transfer("t0", [second, first])) != same[0]


def test_expected_work_grows_with_rows_and_steps_cap_it():
    assert expected_work(source("s0")) == 100 * 30 * 128


def test_candidate_counts_what_waits():
    graph = two_stages(sources=3, targets=4)
    assert [candidate(graph, graph.job(node)).blocks for node in graph.ready()] == [3, 3, 2]
