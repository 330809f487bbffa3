"""Documents that are longer than what is trained on at a time, in pieces that each have the whole context before them.

A row is its context (the prompt's tokens, masked) and its text. The pieces' texts, one after the other, are the row's
text: nothing is lost, nothing is learnt twice, and only the last piece ends with the end of sequence. They are of like
length, so that none is a stump. What a split costs is counted: the context's tokens once more a piece, and that a piece
does not see the text before it.
"""

from typing import Any

import numpy as np

Int32 = np.ndarray[Any, np.dtype[np.int32]]
Row = tuple[Int32, int, str]  # tokens, where the text begins, group

LEAST_ROOM = 4


def split_row(tokens: Int32, start: int, group: str, limit: int) -> list[Row]:
    """The row itself, or pieces of it of at most `limit` tokens.

    None where the context leaves less than a LEAST_ROOM-th of `limit` for the text: most of every piece would be
    context. The caller counts such rows as left out.
    """
    if len(tokens) <= limit:
        return [(tokens, start, group)]
    room = limit - start
    if room * LEAST_ROOM < limit:
        return []
    context, text = tokens[:start], tokens[start:]
    pieces = np.array_split(text, -(-len(text) // room))
    return [(np.concatenate([context, piece]), start, group) for piece in pieces]
