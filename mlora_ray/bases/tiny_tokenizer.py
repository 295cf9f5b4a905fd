"""The tokenizer of the tiny base: byte-level BPE with a fixed list of merges, so that it needs no training text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>")
VOCAB_SIZE = 512
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Each word adds the merges that spell it from left to right; a leading space is part of the word.
WORDS = (
    " the| and| of| to| in| is| that| for| on| with| as| was| at| by| from| this| are| it| be| or| an| not"
    "|ing|ed|er|ion|tion|es|al|ly|ent|ment|user|assistant|system|answer|question| what| how| number| one| two| three"
    "| word| sort| date| list| name| write| give|ous|ive|able"
)


def make_tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of 512 ids with a chat template; any text goes through it and back unchanged."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*SPECIAL_TOKENS, *alphabet])}
    merges: list[tuple[str, str]] = []
    for word in WORDS.replace(" ", "Ġ").split("|"):
        for end in range(1, len(word)):
            left, right = word[:end], word[end]
            if left + right not in vocab and len(vocab) < VOCAB_SIZE:
                vocab[left + right] = len(vocab)
                merges.append((left, right))
    inner = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        unk_token="<|endoftext|>",
        pad_token="<|pad|>",
        model_max_length=4096,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
