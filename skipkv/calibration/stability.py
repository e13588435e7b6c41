"""How often a thought that the model writes again, from its opening on, is of the same kind."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from skipkv.calibration.openings import Opening
from skipkv.calibration.traces import Trace
from skipkv.models.architecture import text_config
from skipkv.runtime import Engine, Sampling
from skipkv.segmenters import ThoughtClassifier


def agreement(
    engine: Engine,
    trace: Trace,
    opened: Sequence[Opening],
    *,
    classify: ThoughtClassifier,
    samples: int,
    max_tokens: int,
    temperature: float | int,
    seed: int,
) -> Float[Tensor, "N"]:
    """Per opening, the share of regenerated thoughts with the kind of the original thought.

    The hidden state at an opening predicts the thought's kind only if the kind is decided there. If
    regenerated thoughts differ in kind, the state carries little information and blurs the means.

    Source: Zhuang et al. 2026 (arXiv 2604.02113), stability filtering.

    Args:
        engine: decodes the thoughts.
        trace: the trace.
        opened: the openings of its thoughts.
        classify: names the kind of a thought.
        samples: number of regenerated thoughts per opening.
        max_tokens: the most tokens of each; a longer thought is classified by its beginning.
        temperature: temperature of the sampling.
        seed: seeds the sampling, together with the trace's number.
    """
    ids = [*trace.prompt, *trace.tokens]
    limit = (
        getattr(text_config(engine.model), "max_position_embeddings", None) or len(ids) + max_tokens
    )
    # an opening without room to regenerate has no agreement
    fitting = [i for i, o in enumerate(opened) if o.position + 1 + max_tokens <= limit]
    alike = torch.zeros(len(opened))
    completions = engine.generate(
        [ids[: opened[i].position + 1] for i in fitting],
        max_new_tokens=max_tokens,
        sampling=Sampling(temperature=temperature, n=samples),
        stop=("\n\n",),
        seeds=[seed + 1_000_003 * (trace.index + 1) + i for i in fitting],
        progress=False,
    )
    for completion in completions:
        i = fitting[completion.index]
        if completion.text.strip() and classify(completion.text) == opened[i].kind:
            alike[i] += 1
    return alike / samples
