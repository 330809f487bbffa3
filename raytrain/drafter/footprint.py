"""How much memory one worker takes while a drafter is trained, in the parts of `raytrain.footprint`. No torch.

The student is there for looking only: its weights, and of each token the states that are kept. The drafter's states
under ZeRO are those of T trained parameters. For each step of training-time test autograd keeps a layer's activations,
whose attention sees twice the width, and the logits over the drafter's vocabulary D of *every* position (speculators
scores the prompt too): the logits, the log-probabilities and the student's probabilities (b + 4 + 4 bytes a number),
and four fp32 numbers more while the last step is worked through.

With `states: engine` no worker has the student. The states of `engine.ahead` batches and of the one that is waited for
lie in Ray's object store, which is a node's own memory; on a CPU the engines with their weights and key-value cache
share it with the workers. On GPUs they have their own, and vLLM says before training whether the student fits there.
"""

from raytrain.footprint import GIB, HEAP, Batch, Footprint, optimizer_states
from raytrain.settings import DrafterSettings
from raytrain.shape import ModelShape

LAYERS_SEEN = 3
ENGINE_GIB = 1.2  # vLLM's process on a CPU beside weights and cache; 1.8 GiB with a cache of 1 were seen, all in all
LARGEST_VOCABULARY = 32_000  # before the answers are counted (ModelShape.drafted); EAGLE-3's own


def draft_footprint(shape: ModelShape, settings: DrafterSettings, batch: Batch, *, on_gpu: bool) -> Footprint:
    """The memory of one worker."""
    size = 2 if settings.worker.precision == "bf16" else 4
    vocabulary = shape.drafted or min(shape.vocabulary, LARGEST_VOCABULARY)
    streamed = settings.states == "engine"
    held = (0 if streamed else shape.parameters) + shape.drafter + shape.embedding + 2 * vocabulary * shape.hidden
    device = {"weights": float(size * held), **optimizer_states(settings, shape.drafter)}
    norms = 8 * 4 * shape.hidden
    products = size * (6 * shape.hidden + 2 * shape.query + 2 * shape.keys + 4 * shape.inner)
    weights = 0 if on_gpu else 2 * size * shape.heads * (batch.longest + settings.draft_tokens)
    states = size * (LAYERS_SEEN + 1) * shape.hidden  # of one token
    kept = batch.tokens * (settings.draft_tokens * (norms + products + weights) + 2 * states)
    logits = batch.tokens * vocabulary * (settings.draft_tokens * (size + 8) + 16)
    device["activations"] = kept * (1 if on_gpu else HEAP)
    device["logits"] = float(logits)
    stored = float((settings.engine.ahead + 1) * batch.tokens * states) if streamed else 0.0
    if streamed and not on_gpu:
        engine = size * shape.parameters + (settings.engine.kv_cache_gib + ENGINE_GIB) * GIB
        device |= {"stored states": stored, "engine": settings.engine.replicas * engine / settings.worker.workers}
    return Footprint({name: amount / GIB for name, amount in device.items()}, stored / GIB if on_gpu else 0.0)
