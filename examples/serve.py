"""Export a trained target as one ordinary adapter, and serve that: `python serve.py 8000`, then POST a JSON list of texts to /predict."""

import sys

import torch
import uvicorn
from adapters import AutoAdapterModel
from fastapi import FastAPI

import scalearn

LIMITS = {"backbone": "minilm", "train_rows": 32, "evaluation_rows": 20, "max_length": 16, "epochs": 1}
SOURCES = {"apple": "work/apple"}

backbone = scalearn.load_backbone("minilm")
scalearn.fit(scalearn.job("domains/apple", "adapter", **LIMITS), SOURCES["apple"], backbone=backbone)
job = scalearn.job("domains/apple", "scalearn_pp", sources=tuple(SOURCES), **LIMITS)
trained = scalearn.fit(job, "work/target", sources=SOURCES, backbone=backbone)
scalearn.export_adapter(scalearn.fold(trained), "exported")

# From here on the adapters library alone is at work.
served = AutoAdapterModel.from_pretrained(backbone.backbone.locate())
served.set_active_adapters(served.load_adapter("exported"))
labels = served.eval().get_labels()
app = FastAPI()


@app.post("/predict")
def predict(texts: list[str]) -> list[str]:
    """Return the label of each text."""
    with torch.inference_mode():
        return [labels[number] for number in served(**trained.tokenise(texts)).logits.argmax(-1).tolist()]


uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]))
