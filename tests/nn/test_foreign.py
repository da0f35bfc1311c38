"""Networks from elsewhere: timm's, and the user's own class, function or module."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hubel.errors import UsageError
from hubel.nn import foreign
from hubel.nn.zoo import build, native, outline

CODE = '''
import torch
from torch import nn
from sizes import WIDTH


class Small(nn.Module):
    """Its forward has a branch that depends on the shape."""

    def __init__(self, num_classes, in_channels=3):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, WIDTH, 3, padding=1)
        self.fc = nn.Linear(WIDTH, num_classes)

    def forward(self, x):
        y = self.conv(x).relu()
        if y.shape[-1] > 16:
            y = y[:, :, ::2, ::2]
        return self.fc(y.mean((2, 3)))


def two_classes():
    return Small(2)


class Bad(nn.Module):
    pass


def wrong():
    return 3
'''


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "sizes.py").write_text("WIDTH = 6\n")
    (tmp_path / "mine.py").write_text(CODE)
    return tmp_path / "mine.py"


def test_a_class_from_a_file(file: Path) -> None:
    name = f"{file}:Small"
    with pytest.raises(UsageError, match="none is run because a file says so"):
        build(name, classes=5)
    model = build(name, classes=5, channels=1, size=(24, 24), code=foreign.load_code(name))
    assert model(torch.zeros(2, 1, 24, 24)).shape == (2, 5)
    assert next(model.parameters()).device.type == "cpu"
    assert outline(name, classes=5, size=(24, 24), code=foreign.load_code(name)).fc.weight.is_meta


def test_a_function_and_a_module_of_their_own(file: Path) -> None:
    two = foreign.load_code(f"{file}:two_classes")
    assert build("mine.py:two_classes", classes=2, size=(8, 8), code=two)(torch.zeros(1, 3, 8, 8)).shape == (1, 2)
    torch.manual_seed(0)
    mine = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    copied = build("notebook.py:Sequential", classes=2, size=(8, 8), code=mine)
    assert copied is not mine
    assert torch.equal(copied[3].weight, mine[3].weight)


@pytest.mark.parametrize(
    ("what", "classes", "message"),
    [
        ("nowhere.py:Net", 2, "There is no file nowhere.py"),
        ("{file}:Smal", 2, "has no class or function 'Smal': its networks are Small, Bad"),
        ("{file}:two_classes", 3, r"must return logits \(N, 3\).*returned \(1, 2\)"),
        ("{file}:Bad", 3, "can't take images of 3x8x8"),
        ("{file}:wrong", 3, "made a int: expected an nn.Module"),
        ("{file.parent}/broken.py:Net", 3, "could not be run .ZeroDivisionError"),
        ("{file.parent}/needs.py:Net", 3, "could not be built with .*missing 1 required"),
    ],
)
def test_bad_code_is_one_sentence(file: Path, what: str, classes: int, message: str) -> None:
    (file.parent / "broken.py").write_text("1 / 0\n")
    (file.parent / "needs.py").write_text(
        "from torch import nn\nclass Net(nn.Module):\n    def __init__(self, x): pass\n"
    )
    with pytest.raises(UsageError, match=message):
        name = what.format(file=file)
        build(name, classes=classes, size=(8, 8), code=foreign.load_code(name))


def test_arguments_reach_the_constructor_or_are_named(file: Path) -> None:
    with pytest.raises(UsageError, match="mine.py:Small has no argument 'norm': it takes num_classes, in_channels"):
        build(f"{file}:Small", classes=2, size=(8, 8), code=foreign.load_code(f"{file}:Small"), norm="group")
    made = build("notebook.py:Wide", classes=2, size=(8, 8), code=Wide, width=5)
    assert made.fc.in_features == 5
    with pytest.raises(UsageError, match="exists already, so it can't be given width"):
        build("notebook.py:Wide", classes=2, size=(8, 8), code=made, width=6)


class Wide(nn.Module):
    def __init__(self, classes: int, width: int = 4) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, width, 1), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(self.conv(x).mean((2, 3)))
        return y


class Own(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def test_objects_are_called_by_file_and_class() -> None:
    assert foreign.code_name(Own) == foreign.code_name(Own()) == "test_foreign.py:Own"
    exec(compile("class Made(nn.Module): pass", "<cell>", "exec"), names := {"nn": nn, "__name__": "cell"})
    assert foreign.code_name(names["Made"]) == "notebook.py:Made"  # type: ignore[arg-type]
    assert foreign.is_code("notebook.py:Made")


def test_a_forward_that_makes_real_tensors_is_tried_for_real() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.fc(x.mean((2, 3)) + torch.ones(3))
            return y

    assert build("notebook.py:Mixed", classes=2, size=(8, 8), code=Mixed)(torch.zeros(1, 3, 8, 8)).shape == (1, 2)


def test_timm_by_name() -> None:
    pytest.importorskip("timm")
    model = build("timm/mobilenetv3_small_050", classes=4, channels=1, size=(48, 48)).eval()
    assert model(torch.zeros(1, 1, 48, 48)).shape == (1, 4)
    assert native("timm/efficientnet_b1")[1] > 224
    with pytest.raises(UsageError, match="did you mean timm/resnet18"):
        build("timm/resnet18x", classes=2)


@pytest.mark.parametrize(("size", "works"), [((30, 30), 32), ((224, 200), 224), ((5, 5), 16)])
def test_patches_that_do_not_divide_the_images_are_refused_with_a_size_that_works(
    size: tuple[int, int], works: int
) -> None:
    with pytest.raises(UsageError, match=f"a multiple of 16, such as {works}x{works}.$"):
        outline("vit_b_16", classes=2, size=size)
    assert outline("vit_b_16", classes=2, size=(works, works)).image_size == works
    assert outline("vit_b_16", classes=2, size=(48, 48), image_size=48).image_size == 48
    with pytest.raises(UsageError, match="can't be built for 30x30 with .*indivisible by patch size"):
        outline("vit_b_16", classes=2, size=(30, 30), image_size=30)


def test_native_sizes() -> None:
    assert native("lenet5") == (1, 32, 32)
    assert native("resnet50") == (3, 224, 224)
    assert native("torchvision/inception_v3") == (3, 299, 299)
    assert native("mine.py:Net") == (3, 224, 224)
