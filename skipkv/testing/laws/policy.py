"""The laws of policies: all parts together, on the toy model, from prompt to last token."""

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, Any

import attrs
from hypothesis import strategies as st

from skipkv._types import CacheView, Cut, Needs, TokenStream, needs_of
from skipkv.evictors.protocol import most_of
from skipkv.policy import Policy
from skipkv.testing.laws.common import bare
from skipkv.testing.laws.law import Broken, Case, Law, hold_all

if TYPE_CHECKING:
    from skipkv.runtime import Completion

_PROMPT, _NEW = 12, 16  # tokens at most
# sentences with and without a marker, so that segmenters have something to name
_WORDS = ("one", " ", "plus", "wait", ".\n\n", "\n", "is", ".", "two", "again")


@cache
def _toys() -> tuple[Any, Any]:
    from skipkv.testing.fakes import toy_model, toy_tokenizer

    return toy_model(), toy_tokenizer()


@attrs.frozen
class OnToy:
    """A policy with a small budget, and the model on which the laws run it."""

    policy: Policy
    model: Any

    def __repr__(self) -> str:
        return repr(self.policy)

    def decode(
        self, prompts: Sequence[Any], policy: Policy | None = None, batch_size: int = 3
    ) -> list["Completion"]:
        """Completions of the prompts under this policy, or another."""
        from skipkv.runtime import Engine, Sampling

        model, tokenizer = _toys()
        engine = Engine(
            self.model or model, tokenizer, policy or self.policy, batch_size=batch_size
        )
        return list(
            engine.generate(
                prompts, max_new_tokens=_NEW, sampling=Sampling(), trace=True, progress=False
            )
        )


def scaled_down(policy: Policy) -> Policy:
    """The policy with a budget so small that events come within few tokens.

    Parts and flags stay the same.

    Example:
        >>> from skipkv import presets
        >>> small = scaled_down(presets.rkv(budget=1024))
        >>> small.budget.tokens, small.budget.interval, small.budget.window
        (14, 5, 8)
    """
    budget = policy.budget
    if budget is None:
        return policy
    window = max(min(budget.window, 4), policy.needs.queries)
    sinks = min(budget.sinks, 4)
    least = window + sinks + 1 + (_PROMPT if budget.prompt else 0)
    return policy.with_(
        budget=attrs.evolve(
            budget,
            tokens=None if budget.tokens is None else min(budget.tokens, least + 5),
            interval=min(budget.interval, 5),
            window=window,
            sinks=sinks,
        )
    )


def _prompt(least: int = 1, most: int = _PROMPT) -> Any:
    _, tokenizer = _toys()
    known = tokenizer.get_vocab()
    token = st.sampled_from(_WORDS).map(lambda word: known[word])
    return st.lists(token, min_size=least, max_size=most)


def _prompts(case: Case, count: int = 3) -> list[Any]:
    prompt = _prompt()
    prompts: list[Any] = case.draw("prompts", st.lists(prompt, min_size=1, max_size=count))
    return prompts


def _tokens(completions: Sequence[Any]) -> list[Any]:
    return [list(completion.tokens) for completion in completions]


def _check_equal(before: Any, after: Any, changed: str) -> None:
    if before != after:
        raise Broken(f"{changed}, the tokens\n  {before}\nbecame\n  {after}")


def _held(part: Any, case: Case) -> list[tuple[Any, list[Any], int]]:
    """For every event: its record, what each layer's heads kept, and the prompt's length."""
    return [
        (
            record,
            [[[p for p in head.tolist() if p >= 0] for head in layer] for layer in record.kept],
            n,
        )
        for completion in part.decode(_prompts(case))
        for record in completion.trace or ()
        for n in [completion.prompt_tokens]
    ]


def _budget(part: Any, case: Case) -> None:
    budget, evictor = part.policy.budget, part.policy.evictor
    for record, layers, prompt in _held(part, case) if budget is not None else ():
        for own, heads in zip(budget.of_layers(len(layers)), layers, strict=True):
            allowed = own.allowed(record.seen, prompt)
            most, whole = max(map(len, heads)), sum(map(len, heads))
            if most > most_of(evictor, allowed):
                raise Broken(
                    f"after the event at {record.seen} tokens a head held {most} entries, of "
                    f"{most_of(evictor, allowed)} allowed."
                )
            if whole > allowed * len(heads):
                raise Broken(
                    f"after the event at {record.seen} tokens the heads of a layer held {whole} "
                    f"entries, of {allowed * len(heads)} allowed."
                )


def _protected(part: Any, case: Case) -> None:
    budget = part.policy.budget
    for record, layers, prompt in _held(part, case) if budget is not None else ():
        first = max(budget.sinks, prompt if budget.prompt else 0)
        always = {*range(min(first, record.seen))}
        always |= {*range(max(0, record.seen - budget.window), record.seen)}
        for head in chain.from_iterable(layers):
            if lost := sorted(always - set(head)):
                raise Broken(
                    f"after the event at {record.seen} tokens the protected positions {lost} were "
                    f"gone; a head kept {head}."
                )


def _decodes(part: Any, case: Case) -> None:
    prompts = _prompts(case)
    completions = part.decode(prompts, batch_size=2)
    if [c.index for c in completions] != list(range(len(prompts))):
        raise Broken(f"{len(prompts)} prompts gave completions {[c.index for c in completions]}.")
    for completion in completions:
        if completion.error is not None:
            raise Broken(f"prompt {completion.index} ended with: {completion.error}")


def _needs(part: Any, case: Case) -> None:
    prompts = _prompts(case)
    policy = part.policy
    strict = policy.with_(
        scorer=_StrictScorer(policy.scorer), evictor=_StrictEvictor(policy.evictor)
    )
    as_it_is, shown_less = part.decode(prompts), part.decode(prompts, strict)
    for completion in shown_less:
        if completion.error is not None and as_it_is[completion.index].error is None:
            raise Broken(f"shown only what it declares, a part failed: {completion.error}")
    changed = "with each part shown only what it declares itself"
    _check_equal(_tokens(as_it_is), _tokens(shown_less), changed)


def _neighbours(part: Any, case: Case) -> None:
    # of one length, so that their events come together, in one view
    length = case.draw("tokens of each prompt", st.integers(1, _PROMPT))
    prompt = _prompt(length, length)
    prompts = case.draw("prompts", st.lists(prompt, min_size=2, max_size=3))
    together = _tokens(part.decode(prompts))
    alone = [_tokens(part.decode([prompt]))[0] for prompt in prompts]
    _check_equal(together, alone, "with each prompt decoded alone")


def _deterministic(part: Any, case: Case) -> None:
    prompts = _prompts(case, count=2)
    before, after = _tokens(part.decode(prompts)), _tokens(part.decode(prompts))
    _check_equal(before, after, "decoded a second time")


def _streaming(part: Any, case: Case) -> None:
    listener = _Listener(part.policy.segmenter)
    [prompt] = case.draw("prompts", st.just(_prompts(case, count=1)))
    part.decode([prompt], part.policy.with_(segmenter=listener))
    whole = list(listener.inner.cut(listener.stream()))
    if listener.found != [(cut.end, cut.thought) for cut in whole]:
        raise Broken(
            f"while decoding {listener.stream().text!r} the sentences found were\n"
            f"  {listener.found}\nand those of the whole text are\n"
            f"  {[(cut.end, cut.thought) for cut in whole]}"
        )


@attrs.frozen
class _StrictScorer:
    """A scorer that sees only what it declares itself."""

    inner: Any

    @property
    def needs(self) -> Needs:
        return needs_of(self.inner)

    def score(self, view: CacheView) -> Any:
        return self.inner.score(bare(view, self.needs))

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)  # what else it can do, and says of itself
        if name == "remember":
            return lambda view: found(bare(view, self.needs))
        return found


@attrs.frozen
class _StrictEvictor:
    """An evictor that sees only what it declares itself."""

    inner: Any

    @property
    def needs(self) -> Needs:
        return needs_of(self.inner)

    def keep(self, scores: Any, view: CacheView, budget: int) -> Any:
        return self.inner.keep(scores, bare(view, self.needs), budget)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@attrs.define
class _Listener:
    """A segmenter that records the tokens of one sequence, and the cuts of `inner`."""

    inner: Any
    ids: list[int] = attrs.field(factory=list)
    pieces: list[str] = attrs.field(factory=list)
    found: list[tuple[int, Any]] = attrs.field(factory=list)

    def stream(self) -> TokenStream:
        return TokenStream(ids=self.ids, pieces=self.pieces)

    def cut(self, stream: TokenStream) -> Sequence[Cut]:
        start = self.found[-1][0] if self.found else 0
        self.ids[start:], self.pieces[start:] = stream.ids, stream.pieces
        cuts: Sequence[Cut] = self.inner.cut(stream)
        self.found += [(start + cut.end, cut.thought) for cut in cuts]
        return cuts


LAWS = (
    Law(
        name="budget",
        says="After a compression event no row and head holds more entries than its layer's "
        "budget; where heads share theirs, no row.",
        why="it is what bounds the memory.",
        check=_budget,
        basic=True,
    ),
    Law(
        name="protected",
        says="Window, sinks and, where asked for, the prompt are still there after every event.",
        why="the user asked for them, and scorers do not score the window.",
        check=_protected,
        basic=True,
    ),
    Law(
        name="decodes",
        says="Every prompt gives a completion, and none ends with an error.",
        why="an error costs the user that answer.",
        check=_decodes,
        basic=True,
    ),
    Law(
        name="needs",
        says="With each part shown only what it declares itself, the tokens are the same.",
        why="a part that reads what another part declares breaks when that part is exchanged. "
        "check_scorer and check_evictor say what to declare.",
        check=_needs,
    ),
    Law(
        name="neighbours",
        says="A prompt decoded in a batch gives the tokens that it gives alone.",
        why="an answer must not depend on other users' prompts.",
        check=_neighbours,
    ),
    Law(
        name="deterministic",
        says="The same prompts give the same tokens again.",
        why="parts are shared by all calls, so state in a part changes later calls.",
        check=_deterministic,
    ),
    Law(
        name="streaming",
        says="The sentences found while decoding are those of the whole text.",
        why="compression events come at any token, not at the ends of sentences.",
        check=_streaming,
    ),
)


def check_policy(
    policy: Policy,
    *,
    model: Any = None,
    claims: Mapping[str, str] | None = None,
    examples: int = 5,
) -> None:
    """Hold a policy to its laws by decoding with it: all parts together, on a toy model.

    The budget is made so small that events come within few tokens. Parts and flags stay the same. A
    window above 4 becomes as long as the queries that parts read, and at least 4; sinks above 4
    become 4. To find the faulty part, hold each part to its own laws.

    Args:
        policy: any policy.
        model: the toy model to run on, if the policy's steerer needs more layers or another hidden
            size: `toy_model(layers=21)`. It must have the vocabulary of the toy tokenizer.
        claims: laws that it breaks on purpose, each with the reason. A claimed law that it keeps
            is an error too.
        examples: batches of prompts decoded per law.

    Raises:
        ConformanceError: a law is broken; the message shows the shortest prompts on which it is.
        ConfigError: `claims` names something that is not a law, or gives no reason.

    Example:
        >>> from skipkv import presets
        >>> check_policy(presets.rkv(budget=1024), examples=1)
    """
    hold_all(LAWS, OnToy(scaled_down(policy), model), claims, examples)
