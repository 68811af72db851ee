"""SuperGLUE, eight tasks (docs/protocol.md, Tasks): inputs, templates, metrics and splits of the paper."""

from scalearn.tasks.hub_table import hub_source
from scalearn.tasks.task import Row, SplitRule, Task, Template, as_published, text_task

FALSE_TRUE = ("False", "True")


def _connective(row: Row) -> Row:
    """Return the word that joins COPA's premise and choice: it depends on whether the row asks for a cause or an effect."""
    return {"connective": "because" if row["question"] == "cause" else "so"}


def _marked(row: Row) -> Row:
    """Return WSC's sentence with the pronoun, the word at `span2_index`, between asterisks."""
    words = row["text"].split()
    words[row["span2_index"]] = f"*{words[row['span2_index']]}*"
    return {"marked": " ".join(words)}


def _record_texts(row: Row) -> Row:
    """Return ReCoRD's passage with its highlights as a list, and its query with a candidate in the gap."""
    return {
        "plain_passage": row["passage"].replace("@highlight\n", "- "),
        "filled_query": row["query"].replace("@placeholder", row["candidate"]),
    }


TASKS = as_published(
    {"record": "ReCoRD", "multirc": "MultiRC", "boolq": "BoolQ", "wic": "WiC", "wsc": "WSC", "copa": "COPA", "cb": "CB", "rte": "RTE"},
    text_task("super_glue/boolq", ("question", "passage"), FALSE_TRUE, source=hub_source("super_glue", "boolq")),
    text_task(
        "super_glue/cb",
        ("premise", "hypothesis"),
        ("entailment", "contradiction", "neutral"),
        source=hub_source("super_glue", "cb"),
        metrics=("accuracy", "macro_f1"),
        splits=SplitRule(stratify=False),
    ),
    Task(
        key="super_glue/copa",
        kind="multiple_choice",
        templates={"default": Template("{premise} {connective}", "{choice}", _connective)},
        columns=("premise", "question"),
        choices=("choice1", "choice2"),
        label_names=("choice1", "choice2"),
        metrics=("accuracy",),
        source=hub_source("super_glue", "copa"),
    ),
    Task(
        key="super_glue/multirc",
        kind="grouped_answers",
        templates={"default": Template("{paragraph}", "{question} {answer}")},
        columns=("paragraph", "question", "answer"),
        other_columns=("idx",),
        label_names=FALSE_TRUE,
        metrics=("f1a", "exact_match"),
        source=hub_source("super_glue", "multirc"),
        max_length=324,
        may_be_empty=("answer",),  # one published answer is empty
    ),
    Task(
        key="super_glue/record",
        kind="per_candidate",
        templates={"default": Template("{plain_passage}", "{filled_query}", _record_texts)},
        columns=("passage", "query"),
        other_columns=("entities", "answers"),
        label_names=("wrong", "right"),
        metrics=("f1", "exact_match"),
        source=hub_source("super_glue", "record"),
        splits=SplitRule(validation="validation", stratify=False),
        max_length=256,
        truncation="only_first",
    ),
    text_task("super_glue/rte", ("premise", "hypothesis"), ("entailment", "not_entailment"), source=hub_source("super_glue", "rte")),
    Task(
        key="super_glue/wic",
        kind="classification",
        templates={
            "pair": Template("{word}: {sentence1}", "{word}: {sentence2}"),
            "question": Template("{sentence1} {sentence2} Does {word} have the same meaning in both sentences?"),
        },
        columns=("word", "sentence1", "sentence2"),
        label_names=FALSE_TRUE,
        metrics=("accuracy",),
        source=hub_source("super_glue", "wic"),
    ),
    Task(
        key="super_glue/wsc",
        kind="classification",
        templates={
            "marked": Template("{marked}", "{span1_text}", _marked),
            "named": Template("{span2_text}: {text}", "{span1_text}"),
        },
        columns=("text", "span1_text", "span2_text"),
        other_columns=("span2_index",),
        label_names=FALSE_TRUE,
        metrics=("accuracy",),
        source=hub_source("super_glue", "wsc"),
    ),
)
