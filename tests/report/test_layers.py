"""The table of layers: complete, narrow, harmless whatever the names are, and without torch."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from hubel.records import Finding, Layer, Summary
from hubel.report.layers import WIDTH, summary_lines, table_lines, warning_lines
from hubel.report.wording import amount, memory

CONV = Layer(
    name="conv1", kind="Conv2d", detail="7×7, stride 2, padding 3", inputs=(-1,), input_shape=(3, 224, 224),
    shape=(64, 112, 112), parameters=9_408, macs=118_013_952, activation_bytes=3_211_264,
    dense_weights=120_846_286_848, field=(7, 7), stride=(2.0, 2.0), padding=(3.0, 3.0),
)  # fmt: skip
GATE = Layer(
    name="stage.0.block.mul", kind="mul", inputs=(0,), shape=(64, 112, 112), activation_bytes=3_211_264,
    field=(7, 9), stride=(2.0, 2.0), padding=(3.0, 4.0), sees_all=True,
)  # fmt: skip
HEAD = Layer(
    name="stage.fc", kind="Linear", detail="2,048 → 1,000, bias", shape=(1000,), parameters=2_049_000,
    macs=2_048_000, activation_bytes=4_000,
)  # fmt: skip
SUMMARY = Summary(
    network="resnet50", input=(3, 224, 224), layers=(CONV, GATE, HEAD), parameters=2_100_000, trainable=2_000_000,
    buffers=12, macs=120_061_952, activation_bytes=6_426_528, field=(427, 427), stride=(32.0, 32.0),
    padding=(213.0, 213.0), milliseconds=None,
    warnings=(Finding(code="tiny-map", severity="warning", message="the map " + "is small " * 20 + "."),),
)  # fmt: skip


def found(summary: Summary, start: str) -> str:
    (line,) = [line for line in summary_lines(summary) if line.strip().startswith(start)]
    return " ".join(line.split())


def test_rows() -> None:
    assert found(SUMMARY, "conv1 ") == "conv1 Conv2d 7×7 s2 p3 64×112×112 9,408 118 M 7 3.06 MB"
    assert found(SUMMARY, "mul ") == "mul mul 64×112×112 7×9* 3.06 MB"
    assert found(SUMMARY, "fc ") == "fc Linear 2,048 → 1,000 1000 2,049,000 2.05 M all 3.91 KB"


def test_headings_are_the_modules_above() -> None:
    lines = table_lines(SUMMARY)
    assert [line for line in lines[2:] if line and " " not in line and "─" not in line] == ["stage.0.block", "stage"]


def test_totals() -> None:
    assert found(SUMMARY, "parameters") == (
        "parameters 2,100,000, 100,000 of them frozen, 41,592 of them in no layer that runs in"
    )
    assert found(SUMMARY, "multiply-accumulates").endswith("120 M for one image (120,061,952)")
    assert found(SUMMARY, "receptive") == "receptive field 427×427 pixels at the last map; stride 32, start padding 213"
    text = " ".join(" ".join(summary_lines(SUMMARY)).split())
    assert "conv1 has 9,408 parameters; a dense layer from 3×224×224 to 64×112×112" in text
    assert "would need 120,846,286,848" in text


def test_what_is_not_there_is_not_shown() -> None:
    bare = replace(SUMMARY, layers=(HEAD,), field=None, warnings=(), trainable=2_100_000, buffers=0)
    assert found(bare, "receptive") == "receptive field the whole image, from every position"
    text = "\n".join(summary_lines(bare))
    for absent in ("dense layer", "frozen", " ms", "side branch", "not learned"):
        assert absent not in text


def test_times() -> None:
    timed = replace(SUMMARY, layers=(replace(CONV, milliseconds=1.234), GATE), milliseconds=50.84)
    assert found(timed, "conv1 ").endswith(" 1.23")
    assert found(timed, "time") == "time 50.8 ms for one image on this processor"
    assert table_lines(timed)[0].endswith(" ms")


@pytest.mark.parametrize("milliseconds", [None, 12.5])
def test_no_line_is_too_long_and_no_layer_is_left_out(milliseconds: float | None) -> None:
    long = replace(
        CONV,
        name="features.denseblock4.denselayer16.a_module_with_a_very_long_name",
        kind="MyOwnConvolutionWithAVeryLongName",
        parameters=102_764_544,
        milliseconds=milliseconds,
    )
    many = replace(SUMMARY, layers=(CONV, GATE, HEAD, long) * 100, milliseconds=milliseconds)
    lines = summary_lines(many)
    assert max(map(len, lines)) <= WIDTH
    assert sum("102,764,544" in line for line in lines) == 100


def test_hostile_names_are_harmless() -> None:
    evil = replace(CONV, name="\x1b[31mevil\n.name", kind="a\x07b")
    finding = Finding(code="x", severity="note", message="about \x1b[31mevil")
    text = "".join(summary_lines(replace(SUMMARY, network="\x1b[2J", layers=(evil,), warnings=(finding,))))
    assert not [character for character in text if character < " "]


def test_warnings_are_wrapped_and_marked() -> None:
    lines = warning_lines(SUMMARY.warnings)
    assert lines[0] == ""
    assert lines[1].startswith("! the map")
    assert lines[2].startswith("  ")
    assert warning_lines(()) == []


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0"),
        (27, "27"),
        (999, "999"),
        (1000, "1 k"),
        (999_499, "999 k"),
        (999_600, "1 M"),
        (4_089_184_256, "4.09 G"),
    ],
)
def test_amounts(count: int, said: str) -> None:
    assert amount(count) == said


@pytest.mark.parametrize(("count", "said"), [(40, "40 B"), (1024, "1 KB"), (3_211_264, "3.06 MB")])
def test_memory(count: int, said: str) -> None:
    assert memory(count) == said


def test_it_loads_no_torch() -> None:
    code = "import sys, hubel.report.layers; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
