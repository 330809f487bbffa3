"""A repair of speculative decoding on the CPU, brought into vLLM's worker process as its `worker_extension_cls`.

vLLM 0.29 spreads each request's temperature over its drafted tokens with a kernel that, on the CPU, writes into an
integer copy of the result and drops it: the logits are then divided by uninitialised memory as soon as one request of
the batch is sampled. Symptoms: guided requests break off ("grammar rejected tokens [0]"), free ones say what the model
would not. To be removed when `vllm.utils.cpu_triton_utils._expand_kernel_impl` writes into `output` itself.
"""

from typing import Any

import torch
import vllm.utils.cpu_triton_utils as kernels

from rayserve.ranges import Ranges


def expand(output: Any, values: Any, ends: Any, replace_from: float, replace_to: float, **_: Any) -> None:
    """Write each of `values` [requests] into its tokens' places of `output` [tokens]; `ends` are those of the requests.

    A value that is `replace_from` becomes `replace_to`.
    """
    counts = torch.diff(ends, prepend=ends.new_zeros(1))
    replaced = torch.where(values == replace_from, torch.full_like(values, replace_to), values)
    output.copy_(torch.repeat_interleave(replaced, counts))


class Repair:
    """Nothing of its own: vLLM imports this module with it, before the worker takes the kernels over."""


class RepairAndRanges(Repair, Ranges):
    """Both: vLLM takes one extension."""


kernels.expand_kernel = kernels._FuncWrapper(expand)
