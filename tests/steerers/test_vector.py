"""Steering vectors and their files."""

import os
import pickle
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from skipkv.errors import ConfigError, InputError
from skipkv.steerers import AdditiveSteerer, SteeringVector


def test_a_file_gives_back_all_that_was_saved(tmp_path: Any) -> None:
    path = tmp_path / "v.safetensors"
    saved = SteeringVector(vector=torch.tensor([1.0, -0.5]), layer=20, model="M", made="by hand")
    saved.save(path)
    loaded = SteeringVector.load(path)
    assert loaded == saved
    assert (loaded.layer, loaded.model, loaded.made) == (20, "M", "by hand")
    assert eval(repr(loaded)) == saved  # can be pasted back
    assert repr(AdditiveSteerer(loaded)).startswith("AdditiveSteerer(vector=SteeringVector.load(")


@pytest.mark.parametrize("shape", [(3,), (1, 3), (3, 1), (1, 1, 3)])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_published_file_is_turned_to_the_convention(tmp_path: Any, shape: Any, sign: int) -> None:
    path = tmp_path / "v.pt"
    torch.save(torch.tensor([1.0, 2.0, -3.0], dtype=torch.bfloat16).reshape(shape), path)
    loaded = SteeringVector.from_pt(path, layer=20, sign=sign)
    assert loaded.vector.tolist() == [sign * 1.0, sign * 2.0, sign * -3.0]
    assert (loaded.layer, loaded.vector.dtype) == (20, torch.float32)
    assert eval(repr(loaded)) == loaded


def test_of_a_file_with_a_vector_per_layer_the_layers_own_is_taken(tmp_path: Any) -> None:
    path = tmp_path / "v.pt"
    torch.save(torch.arange(1.0, 7.0).reshape(3, 1, 2), path)
    assert SteeringVector.from_pt(path, layer=1, sign=1).vector.tolist() == [3.0, 4.0]
    with pytest.raises(InputError, match=r"layers 0 to 2, and layer 3 was asked for"):
        SteeringVector.from_pt(path, layer=3, sign=1)


class Harm:
    """Unpickled, it would run a command."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("harmed",)


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({"v": torch.ones(2)}, "must hold one tensor, got a dict"),
        (torch.ones(2, 3, 4), r"got the shape \[2, 3, 4\]"),
        (Harm(), "cannot be read"),
        (b"no file of torch's", "cannot be read"),
    ],
)
def test_a_pt_file_of_anything_else_is_refused_and_not_run(
    tmp_path: Any, monkeypatch: Any, held: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "v.pt"
    if isinstance(held, bytes):
        path.write_bytes(held)
    elif isinstance(held, Harm):
        path.write_bytes(pickle.dumps(held))
    else:
        torch.save(held, path)
    with pytest.raises(InputError, match=message):
        SteeringVector.from_pt(path, layer=0, sign=1)
    assert not (tmp_path / "harmed").exists()


class Strided:
    """Pickled, it is a tensor of two numbers that lie gigabytes apart."""

    def __reduce__(self) -> Any:
        plain = torch.ones(4)
        return torch._utils._rebuild_tensor_v2, (
            torch.storage.TypedStorage(
                wrap_storage=plain.untyped_storage(), dtype=plain.dtype, _internal=True
            ),
            *(0, (2,), (10**10,), False, {}),
        )


@pytest.mark.parametrize("held", [torch.ones(1).expand(10**11), Strided()])
def test_a_pt_file_that_claims_gigabytes_is_refused_before_they_are_taken(
    tmp_path: Any, held: Any
) -> None:
    torch.save(held, tmp_path / "v.pt")
    with pytest.raises(InputError, match=r"claims a tensor of \d{11,} bytes"):
        SteeringVector.from_pt(tmp_path / "v.pt", layer=0, sign=1)


@pytest.mark.parametrize("sign", [0, 2, -2])
def test_the_sign_of_a_published_file_must_be_said(tmp_path: Any, sign: int) -> None:
    with pytest.raises(ConfigError, match=r"must be 1 .* or -1"):
        SteeringVector.from_pt(tmp_path / "v.pt", layer=0, sign=sign)


def test_files_that_are_no_steering_vector_are_refused(tmp_path: Any) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        SteeringVector.load(tmp_path / "none.safetensors")
    with pytest.raises(InputError, match="there is no such file"):
        SteeringVector.from_pt(tmp_path / "none.pt", layer=0, sign=1)
    (tmp_path / "text").write_text("hello")
    with pytest.raises(InputError, match=r"not a safetensors file.*from_pt"):
        SteeringVector.load(tmp_path / "text")
    save_file({"vector": torch.ones(2)}, tmp_path / "bare")
    with pytest.raises(InputError, match="holds no steering vector of skipkv"):
        SteeringVector.load(tmp_path / "bare")
    SteeringVector(vector=torch.ones(2), layer=0).save(tmp_path / "damaged")
    with safe_open(tmp_path / "damaged", framework="pt") as file:
        about = file.metadata()
    save_file({"vector": torch.full((2,), torch.nan)}, tmp_path / "damaged", metadata=about)
    with pytest.raises(InputError, match=r"damaged' cannot be used: .*finite numbers"):
        SteeringVector.load(tmp_path / "damaged")
    with pytest.raises(InputError, match="cannot be written"):
        SteeringVector(vector=torch.ones(2), layer=0).save(tmp_path / "no" / "folder")


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        ([1.0], "must be a tensor of floats"),
        (torch.tensor([1, 2]), "a tensor of torch.int64"),
        (torch.ones(2, 2), r"got the shape \[2, 2\]"),
        (torch.ones(0), r"got the shape \[0\]"),
        (torch.zeros(3), "not all of them zero"),
        (torch.tensor([1.0, torch.nan]), "finite"),
    ],
)
def test_what_is_no_direction_is_refused(vector: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SteeringVector(vector=vector, layer=0)


def test_a_vector_does_not_change_with_the_tensor_it_was_made_of() -> None:
    tensor = torch.ones(2)
    vector = SteeringVector(vector=tensor, layer=0)
    tensor += 1
    assert vector.vector.tolist() == [1.0, 1.0]
    assert vector != SteeringVector(vector=tensor, layer=0)
    assert hash(vector) == hash(SteeringVector(vector=torch.ones(2), layer=0))
