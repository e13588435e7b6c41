"""A trace as text for a terminal: its sentences, and how much of each is held."""

from skipkv.trace.sentences import thought_names
from skipkv.trace.trace import Trace

_BAR = 8


def listing(trace: Trace, event: int | None = None) -> str:
    """The sentences of a trace after an event, a line each.

    A line has the share of its entries that are held, as a number and as a bar, the position of
    its first token, its thought, and where the text stands. `*` marks a sentence in which the
    steerer acted, and `->` the first position of the later sentence that repeats it.

    Args:
        trace: the trace.
        event: as for `Trace.kept`; by default the end.

    Example:
        >>> from skipkv import Engine, presets
        >>> from skipkv.testing import toy_model, toy_tokenizer
        >>> from skipkv.trace import Recorder
        >>> engine = Engine(toy_model(), toy_tokenizer(), presets.streaming_llm(8, interval=4))
        >>> recorder = Recorder(engine)
        >>> prompt = "one.\\n\\ntwo plus three plus one.\\n\\nso\\n\\n"
        >>> _ = list(engine.generate([prompt], max_new_tokens=16, observers=[recorder]))
        >>> print("\\n".join(listing(recorder.traces[0]).splitlines()[2:6]))
         held           position  thought
         100% ########         0  execution   one.
          20% ##               2  execution   two plus three plus one.
           0%                 12  execution   so
    """
    share = trace.share(event)  # also refuses an event that is not there
    own, names = trace.sentences, thought_names()
    last = trace.events - 1 if event is None else event % max(trace.events, 1)
    seen = trace.stored if event is None else int(trace.seen[event])
    held = float(share.sum())
    where = "the end" if event is None else f"event {last}"
    lines = [
        f"{len(trace.ids)} tokens, {trace.prompt_tokens} of them the prompt; {trace.events} "
        f"events. At {where}: {held:.1f} of {seen} entries held per head.",
        "",
        f"{'held':>5} {'':{_BAR}} {'position':>9}  thought",
    ]

    def line(start: int, end: int, kind: str, note: str = "") -> str:
        mean = float(share[start:end].mean())
        text = " ".join("".join(trace.pieces[start:end]).split())
        bar = "#" * round(mean * _BAR)
        return f"{mean:>5.0%} {bar:{_BAR}} {start:>9}  {kind:<11} {text}{note}"

    start = 0
    for row, end in enumerate(own.ends[own.ends <= seen].tolist()):
        steered = ((trace.steered >= start) & (trace.steered < end)).any()
        note = ""
        if own.twins[row] >= 0 and own.redundant_at[row] <= last:
            note = f"  -> {int(own.ends[own.twins[row] - 1])}"
        lines.append(
            line(start, end, f"{names[own.thoughts[row]]:<10}{'*' if steered else ''}", note)
        )
        start = end
    if start < seen:
        lines.append(line(start, seen, "(open)"))
    return "\n".join(lines)
