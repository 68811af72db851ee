"""Learn how much a target gains from LoRAs: each source is a LoRA in PEFT's layout, and the result is one, too."""

import scalearn

LIMITS = {"backbone": "minilm", "train_rows": 32, "evaluation_rows": 20, "max_length": 16, "epochs": 1}
SOURCES = {"apple": "work/apple", "coachella": "work/coachella"}

backbone = scalearn.load_backbone("minilm")
for task, directory in SOURCES.items():
    scalearn.fit(scalearn.job(f"domains/{task}", "lora", settings={"rank": 4}, **LIMITS), directory, backbone=backbone)

job = scalearn.job("domains/apple", "scalearn_pp", sources=tuple(SOURCES), source_method="lora", learning_rate=2e-2, **LIMITS)
model = scalearn.fit(job, "work/target", sources=SOURCES, backbone=backbone)

folded = scalearn.fold(model)
scalearn.export_adapter(folded, "exported")  # PeftModel.from_pretrained loads it; its rank is the sum of the sources'
print(model.evaluate(scalearn.task_data("domains/apple", evaluation_rows=20, max_length=16), "validation"))
