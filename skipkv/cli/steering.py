"""From `--policy` and `--vector` to a policy that steers."""

from typing import TYPE_CHECKING

from skipkv.compositions import resolve_policy
from skipkv.errors import ConfigError

if TYPE_CHECKING:
    from skipkv.policy import Policy


def steered_policy(
    name: str,
    *,
    budget: int | None = None,
    interval: int | None = None,
    vector: str | None = None,
    strength: float = 1.0,
    growth: float | None = None,
) -> "Policy":
    """The policy called `name`, steering with the vector in a file where one is given.

    Args:
        name: what follows `--policy`.
        budget: as for `resolve_policy`.
        interval: as for `resolve_policy`.
        vector: path of a steering vector.
        strength: of the steering.
        growth: of the strength with every thought that was not execution; None for the paper's 0.02
            under `skipkv`, and none under any other policy.

    Raises:
        ConfigError: as `resolve_policy`; or `seal` without a vector.
        InputError: no steering vector in the file.
    """
    if vector is None:
        if name == "seal":
            raise ConfigError(
                "--policy seal needs a vector. Add --vector FILE; `skipkv calibrate` makes one."
            )
        return resolve_policy(name, budget=budget, interval=interval)
    from skipkv.steerers import AdaptiveSteerer, AdditiveSteerer, SteeringVector

    if name == "seal":  # it is the steering, around another policy
        name = "full" if budget is None else "rkv"
    if growth is None:
        growth = 0.02 if name == "skipkv" else 0.0
    direction = SteeringVector.load(vector)
    return resolve_policy(name, budget=budget, interval=interval).with_(
        steerer=AdaptiveSteerer(direction, strength=strength, growth=growth)
        if growth
        else AdditiveSteerer(direction, strength=strength)
    )
