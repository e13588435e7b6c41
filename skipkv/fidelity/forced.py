"""Teacher forcing: texts are fed to a model under a policy, and its logits are seen."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from skipkv.policy import Policy
from skipkv.runtime import attach


def forced_logits(
    model: Any,
    tokenizer: Any,
    texts: Sequence[Sequence[int]],
    policy: Policy,
    *,
    prompt_tokens: int,
    one_by_one: bool = False,
) -> Iterator[list[Float[Tensor, "T V"]]]:
    """The logits that follow each token of some texts, from the prompt's last token on.

    The first `prompt_tokens` of a text are its prompt. The rest is fed as if it had been decoded:
    compression events come where they come while decoding. Between two events nothing is dropped,
    so the tokens between them go in together. That gives the logits of feeding them one by one, up
    to rounding. A policy that steers acts at single steps, so its texts are fed one by one.

    Args:
        model: a causal language model of transformers.
        tokenizer: its tokenizer.
        texts: token ids; each more than `prompt_tokens`.
        policy: what is kept.
        prompt_tokens: tokens of the prompt; at least 1.
        one_by_one: feed single tokens, whatever the policy.

    Yields:
        For each text the logits of its next positions: first those of the prompt's last position,
        then stretch by stretch, until all texts have ended. A text that has ended has none. Those
        after a text's last token are left out, as no token follows to compare.
    """
    interval = 128 if policy.budget is None else policy.budget.interval
    single = one_by_one or policy.steerer.layer is not None
    device = model.device
    lengths = [len(text) for text in texts]
    reads_text = policy.needs.sentences or policy.steerer.layer is not None
    with (
        attach(model, policy, tokenizer=tokenizer if reads_text else None),
        torch.inference_mode(),
    ):
        ids = torch.tensor([text[:prompt_tokens] for text in texts], device=device)
        output = model(input_ids=ids, use_cache=True, logits_to_keep=1)
        yield list(output.logits)
        start, longest = prompt_tokens, max(lengths) - 1  # the last token needs no logits
        while start < longest:
            # The first token alone: until a decode step, attach counts what it is fed as prompt.
            # Sentences are read at events, so single tokens are fed up to the first one.
            unread = policy.needs.sentences and (start - 1) % interval
            stop = start + 1
            if not single and start > prompt_tokens and not unread:
                stop = min(-(-start // interval) * interval + 1, longest)
            counts = [max(0, min(stop, length - 1) - start) for length in lengths]
            width = stop - start
            ids = torch.zeros(len(texts), width, dtype=torch.long)
            real = torch.zeros(len(texts), width, dtype=torch.long)
            for row, count in enumerate(counts):
                ids[row, width - count :] = torch.tensor(texts[row][start : start + count])
                real[row, width - count :] = 1
            output = model(
                input_ids=ids.to(device),
                attention_mask=None if min(counts) == width else real.to(device),
                past_key_values=output.past_key_values,
                use_cache=True,
            )
            yield [
                logits[width - count :] for logits, count in zip(output.logits, counts, strict=True)
            ]
            start = stop
