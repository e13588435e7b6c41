"""What eviction saves, and what it costs under each policy: `make demo`.

The embedded reasoner works out the same problems under every preset, at the same budget. Then one
trace shows which sentences `skipkv` kept. It takes about twenty seconds on one CPU core.
"""

import textwrap

import torch
import typer

from skipkv import Completion, Engine, presets, tiny
from skipkv.trace import survival

SHOWN = 4  # answers that fit on a line


def main(problems: int = 20, budget: int = 220, interval: int = 16) -> None:
    """Decode problems under every preset; print answers, memory, and what one trace kept."""
    torch.set_num_threads(1)  # the model is too small for more to help
    model, tokenizer = tiny.load(device="cpu")
    asked = tiny.problems(problems)
    chats = [[{"role": "user", "content": problem.question}] for problem in asked]
    policies = {"full": presets.full()}
    for name in ("random", "streaming_llm", "h2o", "tova", "snapkv", "rkv", "skipkv"):
        options = {"threshold": 0.7} if name == "skipkv" else {}  # the one that suits this model
        policies[name] = presets.get(name)(budget, interval=interval, **options)

    print(f"A model of 3 MB solves {problems} problems under every policy. The first one:\n")
    print(textwrap.indent(textwrap.fill(asked[0].question, 74), "  "))
    print(f"\nEvery {interval} tokens, a policy evicts all but {budget} entries of each head;")
    print("full never evicts. An x marks a wrong answer.\n")
    key = "".join(f"{problem.answer:<5}" for problem in asked[:SHOWN])
    print(f"{'policy':<15}{'right':<7}{'answers':<{5 * SHOWN}}most entries      KV memory")
    print(f"{'(correct)':<22}{key.rstrip()}")
    full_bytes = 0.0
    for name, policy in policies.items():
        engine = Engine(model, tokenizer, policy, batch_size=problems)
        done = list(engine.generate(chats, max_new_tokens=640, progress=False))
        size = sum(completion.stats.peak_kv_bytes for completion in done) / problems
        full_bytes = full_bytes or size
        most = max(completion.stats.peak_entries for completion in done)
        print(f"{name:<15}{_answers(asked, done)}{most:>12}", end="")
        print(f"{size / 1024:>8.0f} KB = {size / full_bytes:.0%} of full", flush=True)

    engine = Engine(model, tokenizer, policies["skipkv"])
    [first] = engine.generate(chats[:1], max_new_tokens=640, progress=False, trace=True)
    print("\nWhat skipkv kept of the first problem: the share of each line's tokens that is")
    print("still held at the end. A line that a later one repeats is evicted first.\n")
    for share, sentence in survival(engine, chats[0], first):
        print(f"  {share:4.0%}  {textwrap.shorten(sentence, 72)}")
    print("\nThe same for 500 problems and more budgets: docs/results.md. Next: README.md.")


def _answers(asked: list[tiny.Problem], done: list[Completion]) -> str:
    """How many answers are right, and the first of them."""
    said = [completion.text.rpartition(r"\boxed{")[2].partition("}")[0] for completion in done]
    right = [text == problem.answer for text, problem in zip(said, asked, strict=True)]
    marked = [text + " x"[not good] for text, good in zip(said, right, strict=True)]
    count = f"{sum(right)}/{len(right)}"
    return f"{count:<7}" + "".join(f"{text:<5}" for text in marked[:SHOWN])


if __name__ == "__main__":
    typer.run(main)
