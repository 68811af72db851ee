"""Stack an adapter that exists already, here one of the adapters library, beside one of your own."""

import adapters

import scalearn

LIMITS = {"backbone": "minilm", "train_rows": 32, "evaluation_rows": 20, "max_length": 16, "epochs": 1}
SOURCES = {"apple": "work/apple", "reviews": "reviews"}

backbone = scalearn.load_backbone("minilm")

# Somebody else's adapter: what `save_adapter` leaves. A hub id, `owner/adapter@revision`, does as well.
plain = adapters.AutoAdapterModel.from_pretrained(backbone.backbone.locate())
plain.add_adapter("reviews", config="seq_bn")
plain.save_adapter(SOURCES["reviews"], "reviews", use_safetensors=True)

scalearn.fit(scalearn.job("domains/apple", "adapter", **LIMITS), SOURCES["apple"], backbone=backbone)
job = scalearn.job("domains/apple", "scalearn_uniform_pp", sources=tuple(SOURCES), learning_rate=2e-2, **LIMITS)
model = scalearn.fit(job, "work/target", sources=SOURCES, backbone=backbone)

for name, omega in zip(SOURCES, model.branch.omega.constrained().flatten().tolist(), strict=True):
    print(f"{name}: {omega:.3f}")
