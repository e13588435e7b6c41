"""One text under one policy, position by position."""

import attrs


@attrs.frozen(kw_only=True)
class Record:
    """What one policy did to the predictions in one text.

    The lists have a number per position, from the first position after the prompt whose logits were
    computed after the policy had dropped something. Before it every policy is the full cache.

    Args:
        text: number of the text.
        policy: label of the policy.
        budget: tokens of its budget; None without such a budget.
        first: the first position of the lists.
        interval: decode steps between two events.
        kl: divergence from the full cache's distribution, in nats.
        same: 1 where the most likely token is the full cache's.
        nll: negative log-likelihood of the text's next token, in nats.
        full_nll: the same under the full cache.
    """

    text: int
    policy: str
    budget: int | None
    first: int
    interval: int
    kl: list[float]
    same: list[int]
    nll: list[float]
    full_nll: list[float]

    @property
    def distances(self) -> list[int]:
        """For each position the tokens fed since the last event: from 1 to the interval.

        The first event comes right before the first position; at the end of a prompt that may be
        between two others.
        """
        return [min(i + 1, (self.first + i - 1) % self.interval + 1) for i in range(len(self.kl))]
