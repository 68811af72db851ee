"""An exported adapter as a model of MLflow that answers texts. MLflow keeps this file with the model, and runs it to load the model."""

from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext


class ServedAdapter(PythonModel):  # type: ignore[misc]
    """A backbone with the adapter and its head. The host that loads it needs this package and the backbone."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the backbone, and the adapter onto it."""
        import scalearn

        self.model = scalearn.load_model(context.artifacts["adapter"])

    def predict(self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Predict texts.

        Args:
            context: Not needed again.
            model_input: A column `text` and, for tasks on pairs, `text_pair`.
            params: There are none.

        Returns:
            A row per text: `label`, the predicted labels joined by commas, and a column per label with its probability; for regression
            `value`.
        """
        if "text_pair" in model_input:
            texts = list(zip(model_input["text"], model_input["text_pair"], strict=True))
        else:
            texts = list(model_input["text"])
        answers = self.model.predict(texts)
        return pd.DataFrame([{"label": ",".join(each.labels)} | dict(each.scores) for each in answers])


set_model(ServedAdapter())
