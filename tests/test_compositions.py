"""From the name of a policy to the policy."""

import sys
import textwrap

import pytest

from skipkv.compositions import resolve_policy
from skipkv.errors import ConfigError
from skipkv.policy import Budget, Policy
from skipkv.presets import rkv


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module `mine` into the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)

    def write(source: str) -> None:
        head = "from skipkv import Budget, Policy\n"
        (tmp_path / "mine.py").write_text(head + textwrap.dedent(source))

    yield write
    sys.modules.pop("mine", None)


def test_a_preset_is_found_by_name_and_given_budget_and_interval():
    assert resolve_policy("rkv", budget=64, interval=16) == rkv(64, interval=16)


def test_a_preset_without_budget_stands_alone():
    assert resolve_policy("full") == Policy()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "nonsense"}, "Known are: full, .*rkv"),
        ({"name": "rkv"}, "needs a budget in tokens. Add --budget N"),
        ({"name": "full", "budget": 64}, "full takes no budget. Drop --budget"),
        ({"name": "rkv:thresh=1"}, "takes no thresh. It takes: budget, "),
        ({"name": "full", "interval": 64}, "full takes no interval. Drop --interval"),
        ({"name": "rkv", "budget": 4}, r"Budget\(tokens=4\) must exceed"),
        ({"name": "rkv", "budget": 64, "interval": 0}, r"Budget\(interval=0\)"),
        (
            {"name": "rkv:budget=64", "budget": 32},
            "says budget=64, and the budget is given as 32 too",
        ),
        ({"name": "rkv:interval=8", "budget": 32, "interval": 9}, "Give it once"),
        ({"name": "rkv:"}, "malformed: write package.module:object"),
        ({"name": ":rkv"}, "malformed"),
        ({"name": "a b:c"}, "malformed"),
        ({"name": "a:b:c"}, "the option 'c' must be name=value"),
        ({"name": "rkv", "budget": 64, "strength": 1.0}, "no vector to steer with"),
        ({"name": "kvzap", "budget": 64}, "kvzap needs a gate, a file .* kvzap:gate=FILE"),
        ({"name": "kvzap:pool=1", "budget": 64}, "takes no pool"),
        (
            {"name": "trimkv:window=4", "budget": 64},
            "needs a gate, a file made for the model. Write trimkv:window=4,gate=FILE",
        ),
        ({"name": "seal"}, "seal needs a vector. Add --vector FILE"),
        ({"name": "rkv:importance=much", "budget": 64}, "cannot be made with .*importance='much'"),
        ({"name": "no_such_module:policy"}, "cannot be imported: ModuleNotFoundError"),
        ({"name": "skipkv.presets:nothing"}, "module 'skipkv.presets' has no 'nothing'"),
        ({"name": "skipkv.presets:NAMES"}, "a callable that returns one, got a tuple"),
        ({"name": "skipkv.policy:Budget.allowed"}, "also requires self, seen"),
    ],
)
def test_what_gives_no_policy_is_said(arguments, message):
    with pytest.raises(ConfigError, match=message):
        resolve_policy(**arguments)


def test_a_policy_of_ones_own_is_found_in_the_working_directory(module):
    module("policy = Policy(budget=Budget(tokens=99))")
    assert resolve_policy("mine:policy") == Policy(budget=Budget(tokens=99))


def test_an_object_may_lie_inside_another(module):
    module("class Mine:\n    policy = Policy()")
    assert resolve_policy("mine:Mine.policy") == Policy()


def test_a_finished_policy_keeps_its_budget(module):
    module("policy = Policy(budget=Budget(tokens=99))")
    with pytest.raises(ConfigError, match="is a finished Policy"):
        resolve_policy("mine:policy", budget=64)


def test_a_function_is_called_with_what_it_takes(module):
    module(
        """
        def bare():
            return Policy()
        def budgeted(budget, interval=7):
            return Policy(budget=Budget(tokens=budget, interval=interval))
        def open_to_all(**options):
            return budgeted(options["budget"])
        """
    )
    assert resolve_policy("mine:bare") == Policy()
    assert resolve_policy("mine:budgeted", budget=50).budget == Budget(tokens=50, interval=7)
    assert resolve_policy("mine:budgeted", budget=50, interval=9).budget.interval == 9
    assert resolve_policy("mine:open_to_all", budget=50).budget.tokens == 50
    with pytest.raises(ConfigError, match="takes no budget"):
        resolve_policy("mine:bare", budget=50)


def test_a_function_that_returns_something_else_is_said(module):
    module("def wrong():\n    return 3")
    with pytest.raises(ConfigError, match="when called, got an int"):
        resolve_policy("mine:wrong")


def test_a_module_that_breaks_on_import_is_said_on_one_line(module):
    module("raise RuntimeError('two\\nlines')")
    with pytest.raises(ConfigError, match="cannot be imported: RuntimeError: two lines"):
        resolve_policy("mine:policy")


def test_a_policy_that_cannot_be_built_on_import_speaks_for_itself(module):
    module("policy = Policy(budget=Budget(tokens=1))")
    with pytest.raises(ConfigError, match="must exceed the window"):
        resolve_policy("mine:policy")
