"""Does the model do the same kind of thing again when it starts over where a thought opens?"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from skipkv.calibration.openings import Opening
from skipkv.calibration.traces import Trace
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
    """Per opening, the share of regenerated thoughts that are of the kind the trace's was.

    The hidden state at an opening holds the coming thought's kind only where it is decided there;
    where the model would do now this and now that, the state says little, and blurs the means.

    Source: Zhuang et al. 2026 (arXiv 2604.02113), stability filtering.

    Args:
        engine: decodes the thoughts.
        trace: the openings' trace.
        opened: where its thoughts open.
        classify: names the kind of a thought.
        samples: thoughts regenerated at each.
        max_tokens: tokens of each at most; what is longer is classified by its beginning.
        temperature: of the sampling.
        seed: with the trace's number it seeds the sampling.
    """
    ids = [*trace.prompt, *trace.tokens]
    limit = getattr(engine.model.config, "max_position_embeddings", None) or len(ids) + max_tokens
    # without room to regenerate, nothing agrees
    fitting = [i for i, o in enumerate(opened) if o.position + 1 + max_tokens <= limit]
    shares = torch.zeros(len(opened))
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
            shares[i] += 1 / samples
    return shares
