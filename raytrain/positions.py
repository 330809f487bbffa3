"""Loss by the position of a token in its document, with the document's context before it and without (the paper's
figure 5): what a context is worth, and how far into a document.

Positions are counted from 1, the text's first token, and gathered in buckets that double: 1, 2 to 3, 4 to 7, ... A
bucket is named by its first position. Without context means that an empty message stands where the context stood, the
form of the chat template kept.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from raytrain.data import Int32, Int64, TokenRows, join

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from raytrain.job import Job
    from raytrain.objectives import Share, Sums

MEASURE = "loss_from_"


def without_context(rows: TokenRows, tokenizer: Any) -> TokenRows:
    """The same texts after an empty context."""
    empty = [{"role": "user", "content": ""}]
    text = tokenizer.apply_chat_template(empty, tokenize=False, add_generation_prompt=True)
    bare: Int32 = np.array(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int32)
    texts = [rows.row(i) for i in range(len(rows))]
    parts = [np.concatenate([bare, tokens[start:]]) for tokens, start in texts]
    return join([(part, len(bare), group) for part, group in zip(parts, rows.groups, strict=True)])


def bucket_of(count: int) -> Int64:
    """The bucket of each of a text's first `count` tokens: floor(log2(position)), positions from 1."""
    return np.frexp(np.arange(1, count + 1, dtype=np.float64))[1].astype(np.int64) - 1


def by_position(model: "PreTrainedModel", rows: TokenRows, job: "Job", share: "Share") -> "Sums":
    """The measure `loss`, and for every bucket loss_from_<first position>: sums [groups, 2] as in `loss_sums`."""
    import torch

    from raytrain.objectives import row_losses

    names = sorted(set(rows.groups))
    buckets = bucket_of(int((rows.lengths - rows.starts).max()))
    table = torch.zeros(int(buckets[-1]) + 1, len(names), 2, dtype=torch.float64, device=model.device)
    index = torch.from_numpy(buckets).to(model.device)
    for row, losses in row_losses(model, rows, job, share):
        sums = torch.stack([losses, torch.ones_like(losses)], dim=1)
        table[:, names.index(rows.groups[row])].index_add_(0, index[: len(losses)], sums)
    parts = {f"{MEASURE}{2**i}": table[i] for i in range(len(table))}
    return {"loss": table.sum(dim=0), **parts}
