"""A comparison of policies with the full cache over texts, written down as it goes on."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import attrs
import torch
from jaxtyping import Float
from torch import Tensor

from skipkv import presets
from skipkv._progress import progress_bar
from skipkv._runs import LineFile, RunFolder, described, read_lines, stamp, vouched_for
from skipkv.budget import Budget
from skipkv.errors import ConfigError, InputError
from skipkv.evaluation.fingerprints import of_model, of_prompts
from skipkv.fidelity.divergence import divergence
from skipkv.fidelity.forced import forced_logits
from skipkv.fidelity.records import Record
from skipkv.fidelity.summary import Report, report
from skipkv.policy import Policy
from skipkv.runtime.support.checks import check_prompt, least_budget

_DIGITS = 6  # of a number in a record


@attrs.frozen(kw_only=True)
class Comparison:
    """What is compared.

    Args:
        policies: labels and policies; a label may come with several budgets.
        prompt_tokens: tokens of a text that are its prompt; at least 1.
        max_tokens: tokens of a text that are fed at most.
        batch_size: texts fed side by side. Memory holds their logits under the full cache: batch
            size times tokens times vocabulary.

    Raises:
        ConfigError: a number is out of range, or a label stands twice with one budget.
    """

    policies: Sequence[tuple[str, Policy]]
    prompt_tokens: int = 64
    max_tokens: int = 1024
    batch_size: int = 4

    def __attrs_post_init__(self) -> None:
        for name in ("prompt_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"Comparison({name}={getattr(self, name)}) must be at least 1.")
        if self.max_tokens < self.prompt_tokens + 2:
            raise ConfigError(
                f"Comparison(max_tokens={self.max_tokens}) must exceed the prompt's "
                f"{self.prompt_tokens} tokens by 2 at least: a token that is fed, and one that "
                "follows it."
            )
        if not self.policies:
            raise ConfigError("Comparison(policies=()) must hold at least one policy.")
        names = [_key(label, policy) for label, policy in self.policies]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ConfigError(
                f"Comparison(policies=...) has {twice[0]} twice. Give each its own label."
            )


def compare(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str | Sequence[int]],
    comparison: Comparison,
    *,
    folder: str | Path | None = None,
    progress: bool | None = None,
    same_policies: bool = False,
) -> Report:
    """Feed texts under each policy, and compare its predictions with the full cache's.

    Positions count from the first that was computed after the policy had dropped something. Every
    text counts alike, however long it is.

    Args:
        model: a causal language model of transformers.
        tokenizer: its tokenizer.
        texts: texts, or their token ids.
        comparison: what is compared.
        folder: where records and summaries are written, line by line; a comparison that was
            stopped goes on there, and further policies join it. None keeps them in memory.
        progress: show a bar; None shows one on a terminal.
        same_policies: go on where a policy is described otherwise than that of the folder, as by
            another version of skipkv: you say that both do the same. The summary says so.

    Returns:
        The tables.

    Raises:
        InputError: a text is too short, no text exceeds a budget, or the folder holds a comparison
            of other texts, another model or other settings.

    Example:
        >>> from skipkv.testing import toy_model, toy_tokenizer
        >>> texts = [[5 + 7 * i % 60 for i in range(90)], [5 + 11 * i % 60 for i in range(70)]]
        >>> policies = [("full", presets.full()), ("rkv", presets.rkv(20, interval=8))]
        >>> found = compare(
        ...     toy_model(),
        ...     toy_tokenizer(),
        ...     texts,
        ...     Comparison(policies=policies, prompt_tokens=8),
        ...     progress=False,
        ... )
        >>> [(row.policy, row.same.value < 1) for row in found.rows]
        [('full', False), ('rkv', True)]
    """
    ids = _encoded(tokenizer, texts, comparison)
    _check_lengths(ids, comparison, model)
    settings = {
        "model": of_model(model),
        "texts": of_prompts(ids),
        "prompt_tokens": comparison.prompt_tokens,
    }
    policies = {_key(label, p): stamp(p) for label, p in comparison.policies}
    with _store(folder, settings, policies, same_policies=same_policies) as (store, vouched):
        _measure(model, tokenizer, ids, comparison, store, progress)
        asked = {(label, _tokens(policy)) for label, policy in comparison.policies}
        records = [r for r in store.records if folder or (r.policy, r.budget) in asked]
    found = attrs.evolve(report(records), vouched=vouched)
    if folder is not None:
        found.write(Path(folder))
    return found


@attrs.define
class _Memory:
    """Records of a comparison that is written nowhere."""

    records: list[Record] = attrs.field(factory=list)

    def add(self, record: Record) -> None:
        self.records.append(record)


@contextmanager
def _store(
    folder: str | Path | None,
    settings: dict[str, Any],
    policies: dict[str, dict[str, str]],
    *,
    same_policies: bool,
) -> "Iterator[tuple[LineFile[Record] | _Memory, tuple[str, ...]]]":
    """Where records are held, and notes on policies that the user vouched for."""
    if folder is None:
        yield _Memory(), ()
        return
    run = RunFolder(folder, "fidelity", outputs=("summary.md", "summary.json"))
    run.check(settings)
    with run.locked():
        before = (run.read() or {}).get("settings", {})
        records, _ = read_lines(run.path / run.records, Record)
        known = described(
            before.get("policies", {}),
            policies,
            {_name(record.policy, record.budget) for record in records},
            run.path,
            same_policies=same_policies,
        )
        run.write({"settings": {**settings, "policies": known}})
        with closing(LineFile(run.path / run.records, Record)) as file:
            yield file, vouched_for(known)


def _measure(
    model: Any,
    tokenizer: Any,
    ids: list[list[int]],
    comparison: Comparison,
    store: "LineFile[Record] | _Memory",
    progress: bool | None,
) -> None:
    done = {(r.policy, r.budget, r.text) for r in store.records}
    wanted = [
        [n for n in range(len(ids)) if (label, _tokens(policy), n) not in done]
        for label, policy in comparison.policies
    ]
    order = sorted(range(len(ids)), key=lambda n: (-len(ids[n]), n))
    size = comparison.batch_size
    total = sum(map(len, wanted))
    with progress_bar(progress, total=total, unit="text", desc="fidelity: ") as bar:
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            full: dict[int, Tensor] = {}
            for (label, policy), missing in zip(comparison.policies, wanted, strict=True):
                some = [n for n in batch if n in missing]
                if not some:
                    continue
                if not full:
                    full = _full(model, tokenizer, ids, batch, comparison.prompt_tokens)
                for record in _compared(
                    model, tokenizer, ids, some, label, policy, full, comparison.prompt_tokens
                ):
                    store.add(record)
                bar.update(len(some))


def _full(
    model: Any, tokenizer: Any, ids: list[list[int]], batch: list[int], prompt: int
) -> dict[int, Float[Tensor, "T V"]]:
    """Each text's log-probabilities under the full cache, from the prompt's last position on."""
    texts = [ids[n] for n in batch]
    rows: list[list[Tensor]] = [[] for _ in batch]
    for stretch in forced_logits(model, tokenizer, texts, presets.full(), prompt_tokens=prompt):
        for row, logits in zip(rows, stretch, strict=True):
            row.append(logits.float().log_softmax(dim=-1))
    return {n: torch.cat(row) for n, row in zip(batch, rows, strict=True)}


def _compared(
    model: Any,
    tokenizer: Any,
    ids: list[list[int]],
    some: list[int],
    label: str,
    policy: Policy,
    full: dict[int, Float[Tensor, "T V"]],
    prompt: int,
) -> Iterator[Record]:
    """The records of some texts under a policy."""
    least = least_budget(policy, model.config)
    firsts = {n: first_changed(least, prompt, len(ids[n])) for n in some}
    found: dict[int, list[list[Any]]] = {n: [[], [], [], []] for n in some}
    at = dict.fromkeys(some, prompt - 1)
    changed = [n for n in some if firsts[n] < len(ids[n])]
    texts = [ids[n] for n in changed]
    if changed:
        for stretch in forced_logits(model, tokenizer, texts, policy, prompt_tokens=prompt):
            for n, logits in zip(changed, stretch, strict=True):
                start, at[n] = at[n], at[n] + len(logits)
                skipped = max(0, firsts[n] - start)
                if len(logits) <= skipped:
                    continue
                place = slice(start + skipped, start + len(logits))
                following = torch.tensor(ids[n][place.start + 1 : place.stop + 1])
                following = following.to(logits.device)
                whole = full[n][place.start - prompt + 1 : place.stop - prompt + 1]
                apart = divergence(whole, logits[skipped:], following)
                full_nll = -whole.gather(-1, following[:, None])[:, 0]
                for held, new in zip(
                    found[n], (apart.kl, apart.same.int(), apart.nll, full_nll), strict=True
                ):
                    held += new.tolist()
    for n in some:
        kl, same, nll, itself = found[n]
        yield Record(
            text=n,
            policy=label,
            budget=_tokens(policy),
            first=firsts[n],
            interval=128 if policy.budget is None else policy.budget.interval,
            kl=[_rounded(x) for x in kl],
            same=same,
            nll=[_rounded(x) for x in nll],
            full_nll=[_rounded(x) for x in itself],
        )


def first_changed(budget: Budget | None, prompt: int, length: int) -> int:
    """The first position of a text that is computed after a policy has dropped something.

    Args:
        budget: of the layer that has least; a policy without one may change every position.
        prompt: tokens of the prompt.
        length: tokens of the text. It is returned where nothing is dropped in time.
    """
    if budget is None:
        return prompt
    after = (prompt - 1) // budget.interval * budget.interval + budget.interval + 1
    # an event comes at the end of the prompt, and after token number k * interval + 1
    for seen in (prompt, *range(after, length - 1, budget.interval)):
        if seen > budget.allowed(seen, prompt):
            return int(seen)
    return length


def _encoded(
    tokenizer: Any, texts: Sequence[str | Sequence[int]], comparison: Comparison
) -> list[list[int]]:
    if not texts:
        raise InputError("There is no text to compare policies on.")
    found = []
    for text in texts:
        ids = tokenizer(text)["input_ids"] if isinstance(text, str) else text
        found.append(list(ids)[: comparison.max_tokens])
    return found


def _check_lengths(ids: list[list[int]], comparison: Comparison, model: Any) -> None:
    least = comparison.prompt_tokens + 2
    for number, text in enumerate(ids):
        if len(text) < least:
            raise InputError(
                f"Text {number} has {len(text)} tokens, and at least {least} are needed: "
                f"{comparison.prompt_tokens} are its prompt. Leave it out, or make the prompt "
                "shorter (prompt_tokens)."
            )
    longest = max(map(len, ids))
    for label, policy in comparison.policies:
        budget = least_budget(policy, model.config)
        prompt = f"{_key(label, policy)}: the prompt of a text"
        check_prompt(budget, comparison.prompt_tokens, prompt, shared=policy.budget)
        if first_changed(budget, comparison.prompt_tokens, longest) >= longest:
            raise InputError(
                f"No text exceeds the budget of {_key(label, policy)}: the longest has {longest} "
                "tokens, so nothing would be dropped. Give longer texts, or a smaller budget or "
                "interval."
            )


def _key(label: str, policy: Policy) -> str:
    return _name(label, _tokens(policy))


def _name(label: str, tokens: int | None) -> str:
    return label if tokens is None else f"{label} @ {tokens}"


def _tokens(policy: Policy) -> int | None:
    return None if policy.budget is None else policy.budget.tokens


def _rounded(number: float) -> float:
    return float(f"{number:.{_DIGITS}g}")
