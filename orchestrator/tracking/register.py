"""An exported adapter in MLflow: a logged model of its job's run, registered under a name. Imports MLflow, which takes seconds."""

import importlib.metadata
import logging
import os
import warnings
from pathlib import Path

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

from orchestrator.tracking import served_adapter
from orchestrator.tracking.mlflow_server import TrackedExperiment
from scalearn.errors import UserError
from scalearn.secrets import clause, without_secrets

_PACKAGE = "scalearn-orchestrator"


def register(directory: Path, name: str, tracked: TrackedExperiment, node: str) -> str:
    """Log an exported adapter as a model that answers texts, and register it.

    Args:
        directory: What `export_adapter` wrote.
        name: Name in the registry. A name that is there gets a further version.
        tracked: Where the sweep is logged.
        node: The job that was exported. The model belongs to its run.

    Returns:
        Address of the version, `models:/NAME/VERSION`, for `mlflow.pyfunc.load_model`.

    Raises:
        UserError: The job is not logged there, or MLflow refuses.
    """
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    address = without_secrets(tracked.uri)
    try:
        mlflow.set_tracking_uri(tracked.uri)
        client = MlflowClient()
        experiment = client.get_experiment_by_name(tracked.experiment)
        runs = client.search_runs([experiment.experiment_id], f"tags.node = '{node}'") if experiment is not None else []
        if not runs:
            raise UserError(f"{address} has no run of {node}: `scalearn run` logs it.")
        model = client.create_logged_model(experiment.experiment_id, name=directory.name, source_run_id=runs[0].info.run_id)
        inputs = Schema([ColSpec("string", "text"), ColSpec("string", "text_pair", required=False)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an example of an input would make MLflow load the model to try it
            mlflow.pyfunc.log_model(
                model_id=model.model_id,
                name=directory.name,
                python_model=served_adapter.__file__,
                artifacts={"adapter": str(directory)},
                signature=ModelSignature(inputs),
                pip_requirements=[f"{_PACKAGE}=={importlib.metadata.version(_PACKAGE)}"],
            )
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        version = client.create_model_version(name, f"models:/{model.model_id}", runs[0].info.run_id, model_id=model.model_id)
    except (MlflowException, OSError) as error:
        raise UserError(f"MLflow at {address} does not register {name} ({clause(error)}).") from error
    return f"models:/{name}/{version.version}"
