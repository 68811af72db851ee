"""What a webhook is told, and that one which is slow, down or broken stops nothing: with a real server on loopback."""

from collections.abc import Iterator

import pytest

from orchestrator.artifacts.store import Store
from orchestrator.definition.graph import Graph
from orchestrator.definition.schema import Notify
from orchestrator.definition.sweep import Sweep
from orchestrator.watching.notify import VARIABLE, Notifier
from scalearn.errors import UserError
from scalearn.secrets import without_secrets
from tests.orchestrator.helpers.doubles import source
from tests.orchestrator.helpers.launch import SWEEP
from tests.orchestrator.helpers.launching import wait_until
from tests.orchestrator.helpers.webhook import PATH, Webhook, listening
from tests.ports import free_ports


@pytest.fixture
def hook() -> Iterator[Webhook]:
    with listening() as webhook:
        yield webhook


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


@pytest.fixture(autouse=True)
def no_webhook_of_the_user(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


def begun(store, **notify):
    graph = Graph([source(f"s{number}") for number in range(3)])
    notifier = Notifier(Notify(**notify), "toy", store)
    notifier.begin(graph)
    return graph, notifier


def test_end_of_a_run_is_posted_with_code_and_counts(store, hook):
    graph, notifier = begun(store, webhook=hook.url)
    first, second, _ = graph.nodes()
    graph.mark(first, "cached")
    graph.mark(second, "succeeded")
    assert notifier.end("budget", 3, "The budget admits no more.", patience=60) is None
    text = "Sweep toy: 2 of 3 jobs are done, 1 pending. The budget admits no more."
    counts = {"pending": 1, "succeeded": 1, "cached": 1}
    assert hook.posts == [{"sweep": "toy", "store": store.url, "event": "budget", "code": 3, "jobs": counts, "text": text}]
    assert hook.asked == [f"POST {PATH}"]


def test_first_failure_is_posted_and_later_ones_are_not(store, hook):
    graph, notifier = begun(store, webhook=hook.url)
    for node in graph.nodes()[:2]:
        store.begin(node, {})
        store.fail(node, "The training loss became nan.", "...")
        graph.mark(node, "failed")
        notifier.listen(node, "failed")
    wait_until(lambda: hook.posts)
    assert notifier.end("end", 1, patience=60) is None
    failure, end = hook.posts
    assert (failure["event"], failure["node"], failure["error"]) == ("failure", graph.nodes()[0], "The training loss became nan.")
    assert end["text"] == "Sweep toy: 0 of 3 jobs are done, 1 pending, 2 failed."


def test_slack_gets_its_own_form_in_which_nothing_is_markup(store, hook):
    _, notifier = begun(store, webhook=hook.url, form="slack")
    assert notifier.end("end", 1, "<!channel> & more", patience=60) is None
    assert hook.posts == [{"text": "Sweep toy: 0 of 3 jobs are done, 3 pending. &lt;!channel&gt; &amp; more"}]


def test_error_that_ends_a_run_is_posted(store, hook):
    _, notifier = begun(store, webhook=hook.url)
    with pytest.raises(UserError), notifier:
        raise UserError("The store could not be reached.")
    assert hook.posts[0]["text"].endswith("It ended with an error: The store could not be reached.")


def test_error_before_anything_has_begun_is_not_posted(store, hook):
    with pytest.raises(UserError), Notifier(Notify(webhook=hook.url), "toy", store):
        raise UserError("Wrong input.")
    assert hook.posts == []


def test_server_that_answers_500_is_asked_three_times_and_named_without_its_path(store, hook):
    hook.status = 500
    _, notifier = begun(store, webhook=hook.url)
    assert notifier.end("end", 0, patience=60) == "The webhook at 127.0.0.1 was not told everything: it answered 500."
    assert len(hook.posts) == 3


def test_server_that_refuses_is_asked_once(store, hook):
    hook.status = 404
    _, notifier = begun(store, webhook=hook.url)
    assert notifier.end("end", 0, patience=60) == "The webhook at 127.0.0.1 was not told everything: it answered 404."
    assert len(hook.posts) == 1


def test_redirection_is_not_followed(store, hook):
    hook.status = 302
    _, notifier = begun(store, webhook=hook.url)
    assert notifier.end("end", 0, patience=60) == "The webhook at 127.0.0.1 was not told everything: it answered 302."
    assert not any(asked.startswith("GET") for asked in hook.asked)


def test_server_that_does_not_answer_holds_up_neither_jobs_nor_the_end(store, hook):
    hook.answers.clear()
    graph, notifier = begun(store, webhook=hook.url)
    notifier.listen(graph.nodes()[0], "failed")
    assert notifier.end("end", 1, patience=0.1) == "The webhook at 127.0.0.1 was not told everything: it did not answer in time."
    assert not hook.answers.is_set()


def test_server_that_is_down_is_named(store):
    _, notifier = begun(store, webhook=f"http://127.0.0.1:{free_ports(1)[0]}/secret")
    assert notifier.end("end", 0, patience=60) == "The webhook at 127.0.0.1 was not told everything: Connection refused."


def test_secrets_are_masked_in_messages(store, hook, monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "hunter2hunter2")
    _, notifier = begun(store, webhook=hook.url)
    assert notifier.end("end", 1, "No access with hunter2hunter2 to postgresql://me:pass@db/x.", patience=60) is None
    assert hook.posts[0]["text"].endswith("No access with *** to postgresql://me:***@db/x.")


@pytest.mark.parametrize("named", [None, "https://hooks.example/***"])
def test_environment_names_the_webhook_where_the_file_does_not(store, hook, monkeypatch, named):
    monkeypatch.setenv(VARIABLE, hook.url)
    _, notifier = begun(store, webhook=named)
    assert notifier.end("end", 0, patience=60) is None
    assert len(hook.posts) == 1


def test_without_a_webhook_nothing_is_told(store):
    graph, notifier = begun(store)
    notifier.listen(graph.nodes()[0], "failed")
    assert notifier.end("end", 0) is None


def test_webhook_of_the_environment_that_is_no_web_address_is_refused(store, monkeypatch):
    monkeypatch.setenv(VARIABLE, "ftp://somewhere/secret")
    with pytest.raises(UserError, match=r"^SCALEARN_WEBHOOK must be a web address") as error:
        begun(store)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("value", ["hooks.example/x", "https://", "http://host:port/x"])
def test_webhook_of_a_file_that_is_no_web_address_is_refused(value):
    with pytest.raises(UserError, match=r"'notify\.webhook' must be a web address"):
        Sweep.from_text(f"{SWEEP}notify: {{webhook: '{value}'}}")


@pytest.mark.parametrize(
    "text",
    [
        "notify: {webhook: https://hooks.example/services/pathsecret, form: slack}",
        'notify:\n  webhook: "https://hooks.example/services/pathsecret"\n',
        "--set notify.webhook=https://hooks.example/services/pathsecret",
        "SCALEARN_WEBHOOK=https://hooks.example/services/pathsecret",
    ],
)
def test_path_of_a_webhook_is_masked(text):
    assert without_secrets(text) == text.replace("services/pathsecret", "***")
