"""A complete recipe with what it was derived from, and the network that training starts with."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch
from torch import Tensor, nn

from hubel.dataset.config import Augmentation, parse_augmentation
from hubel.dataset.loader import Loader
from hubel.dataset.pack import Rows
from hubel.dataset.split import Split
from hubel.dataset.tensors import normalise
from hubel.errors import RunError, UsageError
from hubel.evaluation.baseline import FittedBaseline, fit_baseline
from hubel.evaluation.mirror import MirrorTest
from hubel.jobs.hardware import check_memory, find_device
from hubel.jobs.phases import DEEP, DEEP_RATE, Start
from hubel.jobs.prepare import Dataset
from hubel.jobs.recipe import Recipe
from hubel.jobs.rules import batch_size_for, some_of
from hubel.learning.distributed import rank, world_size
from hubel.learning.schedule import image_size
from hubel.learning.transfer import Phase
from hubel.nn.dry_run import learns_from_one
from hubel.nn.foreign import check_size
from hubel.nn.loading import LoadReport, load_into
from hubel.nn.stages import Stages, find_stages
from hubel.nn.zoo import Prepared, arguments_for, build, check_arguments, defaults_of, outline
from hubel.records import ModelCard, Preprocess

FITTED = 20_000  # training images that the baselines are fitted on
SAMPLED = 2**29  # and numbers in them, at most
SAMPLE = 2_000  # training images that mean, std and the first layer are measured on


@dataclass(frozen=True, kw_only=True)
class StoredPlan:
    """plan.json: what of a plan is not in its recipe, as `Plan` explains it; `source` says which images it is for."""

    source: str
    card: ModelCard
    size: int
    rows: tuple[tuple[str, str, str], ...]
    speed: dict[str, float]
    reserve: float
    phases: tuple[Phase, ...]
    shares: tuple[float, ...]
    views: int
    notes: tuple[str, ...]
    open_ended: bool = False
    extensions: int = 0
    known: bool = False
    renamed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.phases or len(self.phases) != len(self.shares) or not all(0 < share <= 1 for share in self.shares):
            raise ValueError(f"{len(self.shares)} shares of the time don't fit {len(self.phases)} phases")
        if not 1 <= self.size <= max(self.card.preprocess.size) or self.views not in (0, 1, 2) or self.reserve < 0:
            raise ValueError(f"size {self.size}, views {self.views} or reserve {self.reserve} is impossible")
        if self.speed.get("forward", 0) <= 0:
            raise ValueError("it says no images a second of the measured network")
        if self.renamed and (*self.renamed.values(),) != self.card.classes:
            raise ValueError("its classes are not those that the folders were renamed to")

    def named(self, folders: tuple[str, ...]) -> tuple[str, ...]:
        """Return the classes of the images' folders under the names that the run's were given since."""
        return folders if folders == self.card.classes else tuple(self.renamed.get(name, name) for name in folders)

    def check_recipe(self, recipe: Recipe) -> None:
        """Look that a recipe leaves nothing open and says the same, so that neither file can be a stranger's.

        Raises:
            RunError: names what differs.
        """
        data, train, network = recipe.data, recipe.train, recipe.model
        settled = (
            train.batch_size,
            train.optimizer,
            train.momentum,
            train.weight_decay,
            train.label_smoothing,
            train.lr or self.phases[-1].fitted,
        )
        said = {
            "network": (self.card.architecture, network.model),
            "arguments": (
                {**self.card.arguments, **check_arguments(network.model, network.given)},
                self.card.arguments,
            ),
            "size": (max(self.card.preprocess.size), data.size),
            "open settings": (None in settled or "auto" in (train.precision, data.augment) or data.flip is None, False),
        }
        for what, (planned, asked) in said.items():
            if planned != asked:
                raise RunError(
                    f"plan.json and recipe.yaml are not of one run ({what}: {planned!r} and {asked!r}): restore them "
                    "from a copy, or train again with --recipe."
                )


@dataclass(kw_only=True)
class Plan:
    """A recipe with nothing left open, and what it was derived from; `planning` fills it, and then it stays as it is.

    Attributes:
        processes: that share each batch.
        size: final side of the training images; the card's size is what the model is judged at.
        rows: (what, value, why) for people. speed: the measurements behind it, in images a second.
        reserve: seconds kept back for measuring and reporting.
        phases: the calls of the loop: one from scratch, several in fine-tuning. shares: of the time, for each.
        stages: how the network is divided, in fine-tuning. views: versions of each image (itself, mirrored) whose
            features are kept while the head alone is trained; 0 keeps none. linear: whether the network ends in one
            dense layer, which can be fitted to features.
        notes: sentences that belong into the report. open_ended: whether time alone decides how many epochs there are.
        extensions: phases at the end that were added. source: where the images are.
        known: whether the weights' own layer for the classes is taken over: they know all by name, and answer for them.
        renamed: folder → the name that its class was given since, for all of them; empty where none was.
        mirror: whether mirror images mean the same.
        augmentation, loader, baseline: what follows from the recipe and the images.
    """

    dataset: Dataset
    division: Split
    recipe: Recipe
    device: torch.device
    start: Start
    card: ModelCard
    processes: int = 1
    size: int = 0
    rows: tuple[tuple[str, str, str], ...] = ()
    speed: dict[str, float] = field(default_factory=dict)
    reserve: float = 0.0
    phases: tuple[Phase, ...] = ()
    shares: tuple[float, ...] = ()
    views: int = 0
    linear: bool = False
    notes: tuple[str, ...] = ()
    open_ended: bool = False
    extensions: int = 0
    known: bool = False
    renamed: dict[str, str] = field(default_factory=dict)
    source: str = ""
    stages: Stages | None = None
    augmentation: Augmentation = field(default_factory=Augmentation)
    loader: Loader = field(init=False)
    baseline: FittedBaseline = field(init=False)
    mirror: MirrorTest = field(init=False)

    @property
    def preprocess(self) -> Preprocess:
        """How an image becomes the network's input."""
        return self.card.preprocess

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images that the model is judged on."""
        return (self.preprocess.channels, *self.preprocess.size)

    def say(self, what: str, value: str, why: str) -> None:
        """Add a line for people, or put it in the place of the one before: what was decided, and why."""
        rows = {name: (value, why) for name, value, why in self.rows} | {what: (value, why)}
        self.rows = tuple((name, *said) for name, said in rows.items())

    def stored(self) -> StoredPlan:
        """Return what of the plan is not in the recipe: `plan_from` makes the plan again."""
        return StoredPlan(**{entry.name: getattr(self, entry.name) for entry in fields(StoredPlan)})

    def take(self, phases: tuple[Phase, ...], shares: tuple[float, ...]) -> None:
        """Set the phases with their shares of the time, and what the recipe says of them."""
        train = self.recipe.train
        if self.start.weights is not None:
            train = replace(train, stages=",".join(map(str, phases)), lr=phases[-1].lr or None)
        epochs = sum(phase.epochs for phase in phases)
        self.phases, self.shares = phases, shares
        self.recipe = replace(self.recipe, train=replace(train, epochs=epochs or None))

    def cut(self, number: int, epochs: int, *, ended: bool) -> bool:
        """Leave out what was not trained of phase `number`, and the phases after it where the training ended with it.

        Returns:
            Whether anything was left out.
        """
        phases, shares = self.phases[number + 1 :], self.shares[number + 1 :]
        short = replace(self.phases[number], epochs=min(epochs, self.phases[number].epochs))
        if short == self.phases[number] and not (ended and phases):
            return False
        rest = ((), ()) if ended else (phases, shares)
        self.take((*self.phases[:number], short, *rest[0]), (*self.shares[: number + 1], *rest[1]))
        return True

    def initial_model(self) -> tuple[nn.Module, LoadReport | None]:
        """Build the network and load what it starts from; one that wants to see images is shown up to 2,000.

        Its weights depend on the seed, and on the data where it asks to see some.
        """
        torch.manual_seed(self.recipe.seed)
        channels, *size = self.shape
        model = build(
            self.card.architecture,
            classes=len(self.card.classes),
            channels=channels,
            size=(size[0], size[1]),
            code=self.start.code,
            **self.card.arguments,
        )
        loaded = None
        if self.start.weights is not None:
            weights = self.start.weights if self.known else replace(self.start.weights, classes=None)
            loaded = load_into(model, weights, shape=self.shape, classes=self.card.classes)
            if self.start.head is not None:
                self.start.head.put_into(model, find_stages(model, self.shape).final)
        elif isinstance(model, Prepared):
            count = min(SAMPLE, max(SAMPLED // math.prod(self.shape), 1))
            model.prepare(normalise(self.loader.sample(count), self.preprocess))
        if self.recipe.train.channels_last:
            model = model.to(memory_format=torch.channels_last)
        return model.to(self.device), loaded

    def class_weights(self) -> Tensor | None:
        """Weights (K,) float32 that make every class count the same in the loss, where that was asked for."""
        if self.recipe.train.balance != "loss":
            return None
        counts = np.bincount(self.dataset.catalog.labels[self.division.train], minlength=len(self.card.classes))
        weights = counts.sum() / np.maximum(counts, 1) / (counts > 0).sum()
        return torch.tensor(weights, dtype=torch.float32, device=self.device)

    def settle_card(self) -> None:
        """Write the network into the card, with the arguments asked for and, beside them, the weights' or the usual."""
        name, side = self.recipe.model.model, max(self.preprocess.size)
        weights, flips = self.start.weights, self.augmentation.flip
        usual = arguments_for(name, side=side, flips=flips) if weights is None else weights.arguments
        arguments = check_arguments(name, {**usual, **self.recipe.model.given})
        self.card = replace(self.card, architecture=name, arguments=arguments)

    def settle_loader(self) -> None:
        """Make the training images into batches, as a recipe with a batch size asks for them."""
        train = self.recipe.train
        assert train.batch_size is not None
        self.loader = Loader(
            self.dataset.packed.images,
            self.dataset.catalog.labels,
            self.division.train,
            classes=len(self.dataset.catalog.classes),
            batch_size=train.batch_size,
            preprocess=self.preprocess,
            augmentation=self.augmentation,
            seed=self.recipe.seed,
            device=self.device,
            sampler="balanced" if train.balance == "sampler" else "shuffle",
            part=(rank(), world_size()),
            dtype=torch.bfloat16 if train.precision == "bfloat16" else torch.float32,
        )

    def settle_baseline(self) -> None:
        """Fit what stands beside the network, on some of the training images."""
        some = some_of(self.division.train, FITTED, self.recipe.seed)
        images, labels = Rows(self.dataset.packed.images, some), self.dataset.catalog.labels[some]
        with warnings.catch_warnings():  # scikit-learn wonders about many classes
            warnings.simplefilter("ignore", UserWarning)
            self.baseline = fit_baseline(images, labels, seed=self.recipe.seed)


def plan_from(
    stored: StoredPlan, recipe: Recipe, dataset: Dataset, division: Split, device: torch.device, start: Start
) -> Plan:
    """Make a plan again from what `Plan.stored` returned, without measuring anything.

    Raises:
        RunError: it is of another recipe, or of images of other classes.
    """
    stored.check_recipe(recipe)
    if stored.card.classes != dataset.catalog.classes:
        raise RunError(
            f"The run was begun with the {_few(stored.card.classes)}, there are {_few(dataset.catalog.classes)}."
        )
    kept = {entry.name: getattr(stored, entry.name) for entry in fields(StoredPlan)}
    plan = Plan(
        dataset=dataset,
        division=division,
        recipe=recipe,
        device=device,
        start=start,
        augmentation=parse_augmentation(recipe.data.augment, bool(recipe.data.flip)),
        **kept,
    )
    plan.take(plan.phases, plan.shares)
    plan.settle_loader()
    plan.settle_baseline()
    if start.weights is not None:
        plan.stages = find_stages(plan.initial_model()[0], plan.shape)
    return plan


def _few(classes: tuple[str, ...]) -> str:
    return f"classes {', '.join(classes[:5])}{', …' if len(classes) > 5 else ''}"


def extended(plan: Plan, epochs: int, lr: float | None, *, finished: bool = True) -> Plan:
    """Add a last phase: so many more epochs, with a schedule of their own.

    Args:
        finished: whether the run had ended and was measured; else it goes on, since there is time.
    """
    last = plan.phases[-1]
    last = Phase(depth=DEEP, epochs=epochs, lr=DEEP_RATE) if last.fitted else last
    added = replace(last, epochs=epochs, lr=lr or last.lr)
    plan.take((*plan.phases, added), (*plan.shares, 1.0))
    plan.extensions += 1
    plan.say("extended", f"{epochs} epochs at {added.lr:.3g}", "as asked" if finished else "time was left")
    if finished:
        text = f"The run was finished once and then extended by {epochs} epochs: its reported part was measured before."
        plan.notes += (text,)
    return plan


def check_model(recipe: Recipe, shape: tuple[int, int, int], classes: int, count: int, start: Start) -> None:
    """Build the network without numbers now: what can't be is refused before minutes of decoding.

    That is a wrong name, size or argument, or one that takes more memory than there is.

    Args:
        shape: (C, H, W) of the images. count: of them.
    """
    tuned = start.weights is not None
    name = recipe.model.model if start.weights is None else start.weights.architecture
    name, given = "quick" if name == "auto" else name, recipe.model.given
    check_arguments(name, given)
    widths = () if tuned else defaults_of(name).widths
    known = {} if start.weights is None else start.weights.arguments
    arguments = {**({"width": widths[0]} if widths else {}), **known, **given}
    model = outline(name, classes=classes, channels=shape[0], size=shape[1:], code=start.code, **arguments)
    first = image_size(min(shape[1:]), recipe.train.small_first or 1.0, 0.0)
    try:
        check_size(model, name, (first, first), shape[0])
    except UsageError as error:
        raise UsageError(f"--small-first {recipe.train.small_first}: {error}") from error
    if not any(True for _ in model.parameters()):
        raise UsageError(f"{name} has no numbers to learn: it can't be trained.")
    batch = min(recipe.train.batch_size or batch_size_for(count, tuned=tuned), count)
    if batch == 1 and not learns_from_one(model, (shape[0], first, first)):
        raise UsageError(
            f"--batch-size 1: the norms of {name} need two images of {first}x{first}: give --batch-size 2."
        )
    check_memory(model, shape, batch, find_device(recipe.device))
