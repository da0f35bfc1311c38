"""Summaries of small networks, written by hand, for the tests of their pictures."""

from __future__ import annotations

from dataclasses import replace

from hubel.records import Finding, Layer, Summary

HOSTILE = "<script>alert('x')</script>&\"\u202e\x00名前"


def chain(*steps: tuple[str, str, tuple[int, ...]], image: tuple[int, int, int] = (3, 32, 32)) -> list[Layer]:
    """Layers in a row, each as (kind, detail, shape of what comes out)."""
    layers: list[Layer] = []
    for number, (kind, detail, shape) in enumerate(steps):
        before = layers[-1].shape if layers else image
        macs = 1000 if kind.startswith(("Conv", "Linear")) else 0
        layers.append(
            Layer(
                name=f"layer{number}",
                kind=kind,
                detail=detail,
                inputs=(number - 1,),
                input_shape=before,
                shape=shape,
                parameters=10,
                macs=macs,
                activation_bytes=4096,
            )
        )
    return layers


def summary(layers: list[Layer], *, name: str = "net", image: tuple[int, int, int] = (3, 32, 32)) -> Summary:
    return Summary(
        network=name,
        input=image,
        layers=tuple(layers),
        parameters=1_234_567,
        trainable=1_234_567,
        buffers=0,
        macs=45_600_000,
        activation_bytes=1 << 21,
        field=(31, 31),
        stride=(8.0, 8.0),
        padding=(3.0, 3.0),
        milliseconds=None,
        warnings=(Finding(code="small", severity="warning", message=f"{name} is small"),),
    )


def plain_chain() -> Summary:
    """Convolution, pooling, convolution, global mean, dense layer."""
    return summary(
        chain(
            ("Conv2d", "3×3, padding 1", (16, 32, 32)),
            ("ReLU", "", (16, 32, 32)),
            ("MaxPool2d", "2×2, stride 2", (16, 16, 16)),
            ("Conv2d", "3×3, stride 2, padding 1", (64, 8, 8)),
            ("AdaptiveAvgPool2d", "", (64, 1, 1)),
            ("Flatten", "", (64,)),
            ("Linear", "64 → 10", (10,)),
        )
    )


def gated() -> Summary:
    """A convolution whose channels are scaled by squeeze-and-excitation."""
    conv, *gate = chain(
        ("Conv2d", "3×3, padding 1", (16, 32, 32)),
        ("AdaptiveAvgPool2d", "", (16, 1, 1)),
        ("Conv2d", "1×1", (4, 1, 1)),
        ("Conv2d", "1×1", (16, 1, 1)),
        ("Sigmoid", "", (16, 1, 1)),
    )
    product = Layer(name="mul", kind="mul", inputs=(4, 0), input_shape=(16, 1, 1), shape=(16, 32, 32))
    return summary([conv, *gate, product])


def hourglass() -> Summary:
    """Down twice and up twice, with two concatenations, the one inside of the other."""
    shapes = [(8, 32, 32), (16, 16, 16), (32, 8, 8), (16, 16, 16), (32, 16, 16), (16, 16, 16), (8, 32, 32)]
    kinds = ["Conv2d", "Conv2d", "Conv2d", "ConvTranspose2d", "cat", "Conv2d", "ConvTranspose2d"]
    details = ["3×3", "3×3, stride 2", "3×3, stride 2", "2×2, stride 2", "", "3×3", "2×2, stride 2"]
    layers = chain(*zip(kinds, details, shapes, strict=True))
    layers[4] = Layer(name="cat1", kind="cat", inputs=(3, 1), input_shape=(16, 16, 16), shape=(32, 16, 16))
    layers.append(Layer(name="cat2", kind="cat", inputs=(6, 0), input_shape=(8, 32, 32), shape=(16, 32, 32)))
    return summary(layers)


def inverted(times: int) -> Summary:
    """A stem and `times` equal residual blocks of three convolutions."""
    layers = chain(("Conv2d", "3×3", (16, 32, 32)))
    for number in range(times):
        first = len(layers)
        for place, (detail, channels) in enumerate((("1×1", 96), ("3×3, depthwise", 96), ("1×1", 16))):
            layers.append(
                Layer(
                    name=f"block{number}.{place}",
                    kind="Conv2d",
                    detail=detail,
                    inputs=(first + place - 1,),
                    input_shape=layers[-1].shape,
                    shape=(channels, 32, 32),
                    macs=9,
                )
            )
        layers.append(
            Layer(
                name=f"block{number}.add",
                kind="add",
                inputs=(first + 2, first - 1),
                input_shape=(16, 32, 32),
                shape=(16, 32, 32),
            )
        )
    return summary(layers)


def nested() -> Summary:
    """A residual block with a smaller one inside of it."""
    layers = chain(*(("Conv2d", "3×3", (16, 32, 32)) for _ in range(4)))
    layers[3:3] = [Layer(name="inner", kind="add", inputs=(2, 1), input_shape=(16, 32, 32), shape=(16, 32, 32))]
    layers[4] = replace(layers[4], inputs=(3,))
    layers.append(Layer(name="outer", kind="add", inputs=(4, 0), input_shape=(16, 32, 32), shape=(16, 32, 32)))
    return summary(layers)
