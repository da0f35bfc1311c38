"""Labels that were corrected: a CSV beside the images, which stay as they are."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from hubel.dataset.find import Catalog
from hubel.dataset.folder import count, few
from hubel.errors import DataError
from hubel.records import Finding
from hubel.text import csv_text

HEADER = ["path", "label"]


def read_labels(file: Path) -> dict[str, str]:
    """Read ``path,label``: path in the data → what the image really is; the last row of a path counts.

    Raises:
        DataError: the file can't be read as that.
    """
    try:
        header, *rows = csv.reader(io.StringIO(file.read_bytes().decode("utf-8-sig"), newline=""))
        if header != HEADER:
            raise ValueError(f"its first line is not {','.join(HEADER)}")
        return dict(filter(None, rows))
    except OSError as error:
        raise DataError(f"The labels {file} can't be read ({error.strerror}).") from error
    except (ValueError, csv.Error) as error:
        raise DataError(f"The labels {file} are no CSV of {','.join(HEADER)} ({error}): correct the file.") from error


def labels_csv(labels: Mapping[str, str]) -> str:
    """What `read_labels` reads."""
    return csv_text([HEADER, *map(list, labels.items())])


def relabelled(catalog: Catalog, file: Path) -> Catalog:
    """The catalogue with the labels that a file gives some of its images.

    Raises:
        DataError: it names images or classes that aren't there.
    """
    given = read_labels(file)
    strange = [*given.keys() - set(catalog.paths), *set(given.values()) - set(catalog.classes)]
    if strange:
        raise DataError(
            f"The labels {file} name what {catalog.root} doesn't hold, {few(sorted(strange))}: give paths relative "
            f"to it, and classes that it has."
        )
    place, labels = {name: i for i, name in enumerate(catalog.classes)}, catalog.labels.copy()
    for i, path in enumerate(catalog.paths):
        labels[i] = place[given[path]] if path in given else labels[i]
    message = f"{count(len(given), 'image')} with the label that {file.name} gives."
    note = Finding(code="relabelled", severity="note", message=message, paths=tuple(given))
    return replace(catalog, labels=labels, findings=(*catalog.findings, note))
