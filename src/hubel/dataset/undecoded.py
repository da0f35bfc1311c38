"""Images that stay where they are and are decoded each time that they are asked for: for data larger than the disk."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from hubel.dataset.decode import Pixels, decode
from hubel.dataset.find import Catalog
from hubel.dataset.folder import few, left_out
from hubel.errors import DataError, ImageError
from hubel.records import Finding, Preprocess

Indices = npt.NDArray[np.int64]


class Undecoded:
    """The images of a catalog, (N, H, W, C) uint8, none of which is held.

    What can't be decoded is known only when its turn comes. It is said once, as a warning, and stands in `findings`.

    Attributes:
        files: (N,) number of the tar file that each image is in.
    """

    def __init__(self, catalog: Catalog, preprocess: Preprocess) -> None:
        self.root, self.paths, self.preprocess = catalog.root, catalog.paths, preprocess
        self.shape = (len(self.paths), *preprocess.size, preprocess.channels)
        self.findings = list(catalog.findings)
        tars = [path[: path.lower().find(".tar/") + 1] for path in self.paths]
        self.files: Indices = np.unique(tars, return_inverse=True)[1].reshape(len(tars)).astype(np.int64)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._threads, self._broken = ThreadPoolExecutor(cores), set[int]()
        self._coming: dict[int, Future[Pixels | str]] = {}
        warn([finding for finding in self.findings if finding.left_out])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, ids: Indices) -> Pixels:
        return self.take(ids)[0]

    def begin(self, ids: Indices) -> None:
        """Decode these images behind the training: they will be asked for next."""
        self._coming = {i: self._threads.submit(self._decode, i) for i in dict.fromkeys(ids.tolist())}

    def take(self, ids: Indices) -> tuple[Pixels, Indices]:
        """Return images (n, H, W, C), and (n,) which of the given ids they are of: others for those that are broken.

        Raises:
            DataError: none of them can be decoded.
        """
        if not self._coming.keys() >= set(ids.tolist()):
            self.begin(ids)
        found = [self._coming[i].result() for i in ids.tolist()]
        places = [n for n, pixels in enumerate(found) if not isinstance(pixels, str)]
        for i, reason in zip(ids.tolist(), found, strict=True):
            if isinstance(reason, str) and i not in self._broken:
                self._broken.add(i)
                self.findings.append(unreadable([self.paths[i]], reason))
                warn(self.findings[-1:])
        if not places:
            raise DataError(f"None of {len(ids)} images in a row can be decoded ({found[0]}): look at the data.")
        chosen = np.arange(len(found))
        chosen[np.setdiff1d(chosen, places)] = np.resize(places, len(found) - len(places))
        return np.stack([found[n] for n in chosen]), chosen

    def _decode(self, i: int) -> Pixels | str:
        try:
            return decode(self.root / self.paths[i], self.preprocess)[0]
        except ImageError as error:
            return error.reason


def unreadable(paths: Sequence[str], reason: str) -> Finding:
    """Say of an image, or of several of one kind, why they can't be used."""
    if len(paths) == 1:
        return left_out("unreadable", f"{paths[0]} can't be used and is left out: {reason}.", paths, reason=reason)
    message = f"{len(paths)} images can't be used and are left out: {reason}: {few(paths)}."
    return left_out("unreadable", message, paths, reason=reason)


def warn(findings: Sequence[Finding]) -> None:
    """Warn of what is left out: nothing passes silently."""
    if findings:
        more = f" And {len(findings) - 3} more; all are in `findings`." if len(findings) > 3 else ""
        warnings.warn(" ".join(finding.message for finding in findings[:3]) + more, stacklevel=3)
