"""Rows of tasks: load them, split them as published, tokenise them once, pad them into batches.

load_task(data, root=...)                         the raw rows of a task's splits
tokenised(data, tokenizer, identity, root=..., cache=...)   the same, as token ids
collate(rows, pad_token_id)                       a padded batch of tensors
"""

from scalearn.data.collate import collate, length_grouped_order, pad_rows, token_count
from scalearn.data.load import load_task
from scalearn.data.split import TaskSplits
from scalearn.data.tokenise import TokenisedTask, tokenised

__all__ = ["TaskSplits", "TokenisedTask", "collate", "length_grouped_order", "load_task", "pad_rows", "token_count", "tokenised"]
