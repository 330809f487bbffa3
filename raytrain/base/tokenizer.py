"""The base's tokenizer: byte-level BPE in which a value reads the same wherever it stands.

A copied value must be the same tokens in the prompt and in the answer, so no word that could be a value carries a
space: spaces join punctuation and a short list of function words, digits are one token each. (With spaces joined to
every lower-case word, as is usual, `day: friday` and `day="friday"` share no token, and a base of three million
parameters copied names and codes well and lower-case values badly.)
"""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SYSTEM, USER, ASSISTANT, END = "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"
PAD = "<|pad|>"
SPECIAL_TOKENS = (PAD, END, SYSTEM, USER, ASSISTANT)
_FUNCTION_WORDS = (
    "I a an and any are as at be by can could do does for from had has have he how if in is it its me my no not of on "
    "or our please so some that the there this to up was we what when which will with would you your"
).split()
_PIECES = rf" (?:{'|'.join(_FUNCTION_WORDS)})(?!\p{{L}})|\p{{Ll}}+|\p{{Lu}}\p{{Ll}}*|\d| ?[^\s\p{{L}}\d]+ ?|\s+"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def render(system: str, user: str, completion: str) -> tuple[str, str]:
    """Prompt and completion as the chat template writes them."""
    return f"{SYSTEM}{system}{END}{USER}{user}{END}{ASSISTANT}", f"{completion}{END}"


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Learn the merges from `texts`; `vocab_size` counts the 256 bytes and the five special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=20,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        model_max_length=2048,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
