"""An exported adapter in a real MLflow: logged for its job's run, registered, and asked for texts."""

from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient
from transformers import PreTrainedTokenizerFast

import scalearn
from orchestrator.artifacts.manifest import write_manifest
from orchestrator.artifacts.store import Store
from orchestrator.cli import main
from orchestrator.definition.sweep import Sweep
from orchestrator.tracking.writer import Target, Tracker
from tests.scalearn.helpers.graphs import ONE_TARGET, train_graph
from tests.scalearn.helpers.small import save_backbone


def test_exported_adapter_is_registered_for_its_run_and_predicts_texts(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("toy.yaml").write_text(ONE_TARGET.format(backbone=save_backbone(tmp_path / "backbone", tokenizer)))
    sweep, store = Sweep.load("toy.yaml"), Store(tmp_path / "runs")
    graph = sweep.expand()
    train_graph(graph, store)
    target = Target.of(None, None, "toy", "", store)
    write_manifest(sweep, graph, store, target.uri, None)
    register = ["export", "toy.yaml", "--best", "--register", "apple"]
    assert main(register) == 2
    assert "are not at sqlite:" in capsys.readouterr().err
    tracker = Tracker(target, graph, store)
    for node in graph.nodes():
        tracker.add(node)
    tracker.start()
    assert tracker.finish("FINISHED", patience=300) == 0

    assert main([*register, "--to", "exported"]) == 0
    assert "Registered as models:/apple/1" in capsys.readouterr().out
    assert main(register) == 0
    told = capsys.readouterr()
    assert "Registered as models:/apple/2" in told.out
    assert told.err == ""
    client = MlflowClient(target.uri)
    (job,) = [each for each in graph if each.parents]
    run = client.get_run(client.get_model_version("apple", "2").run_id)
    assert (run.data.tags["node"], run.info.status) == (job.node, "FINISHED")

    mlflow.set_tracking_uri(target.uri)
    served = mlflow.pyfunc.load_model("models:/apple/2")
    texts = ["Apple ruined my phone again", "what a great concert"]
    answers = served.predict(pd.DataFrame({"text": texts}))
    expected = scalearn.load_model("exported", scalearn.load_backbone("backbone")).predict(texts)
    assert list(answers["label"]) == [each.labels[0] for each in expected]
    assert answers["positive"].tolist() == pytest.approx([each.scores["positive"] for each in expected])
    pairs = served.predict(pd.DataFrame({"text": texts, "text_pair": texts}))
    assert len(pairs) == 2
