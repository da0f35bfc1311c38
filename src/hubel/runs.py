"""The run folder: its only reader and writer.

Every file is written to a temporary sibling, synced and renamed, so that a file is whole or absent whatever happens;
log.jsonl and results.csv grow line by line and are synced at the end of each epoch. Large files are written while the
training goes on, one after the other; what fails then is raised at the next of them, or at the end. manifest.json
lists the SHA-256 of every file and is written last.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from hubel.as_json import from_json, json_text
from hubel.errors import RunError, UsageError
from hubel.records import Part

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

T = TypeVar("T")
DEVICES = (Path("/dev"), Path("/dev/fd"), Path("/proc/self/fd"))  # folders of devices, and of links to them
STATE = "resume/state.safetensors"  # of a training that can go on
LAYOUT = 2  # of the run folder; raise it when readers must tell old from new (2: it has the folder evidence)


@dataclass(frozen=True, kw_only=True)
class Division:
    """split.json: every image's part by its path, seen from `source`, and why the others are in none.

    Attributes:
        seen: the SHA-256 of the images in train and val, by which they are known under other names, too.
    """

    train: tuple[str, ...] = ()
    val: tuple[str, ...]
    test: tuple[str, ...]
    source: str = ""
    seed: int = 0
    reported: Part = "test"
    left_out: dict[str, str] = field(default_factory=dict)
    seen: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """manifest.json: the SHA-256 of every other file of a run, by its path in the folder."""

    layout: int
    sha256: dict[str, str]

    def __post_init__(self) -> None:
        for name in self.sha256:
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise ValueError(f"it lists {name!r}, which is not in the folder")


def write_bytes(file: Path, content: bytes | bytearray | memoryview) -> None:
    """Write a file whole or not at all.

    Raises:
        RunError: disk full, no permission, read-only, I/O error; a device or a pipe, which a file would replace.
    """
    if file.absolute().parent in DEVICES or (file.exists() and not (file.is_file() or file.is_dir())):
        raise RunError(f"{file} is a device or a pipe, in whose place a file would be put: give a file's name.")
    temporary = file.with_name(f".{file.name}.{os.getpid()}.part")
    with _explained(file):
        try:
            with open(temporary, "wb") as handle:
                handle.write(content)
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(temporary, file)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(file.parent)


def write_text(file: Path, content: str) -> None:
    """Write UTF-8 text whole or not at all."""
    write_bytes(file, content.encode("utf-8"))


def write_json(file: Path, value: Any) -> None:
    """Write a record, or plain values, as indented JSON, whole or not at all."""
    write_text(file, json_text(value, indent=2) + "\n")


def make_folder(folder: Path) -> Path:
    """Make a folder with those above it, if it isn't there, and return it.

    Raises:
        RunError: no permission, read-only, disk full.
    """
    with _explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


class RunFolder:
    """One run's folder, open for writing; to this process alone, where the system can lock folders."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: weakref.finalize[..., Any] | None = None
        self._writer = ThreadPoolExecutor(max_workers=1)
        self._writing: Future[None] | None = None
        self.model = path / "model"
        self.pictures = path / "pictures"

    @classmethod
    def check(cls, output: str | Path | None, name: str, *, overwrite: bool = False) -> Path:
        """Return the folder a run would go to, `output` or ``runs/<name>[-N]``; nothing is changed yet.

        Raises:
            RunError: the folder is not empty and `overwrite` is off, it holds something else than a run, or another
                training writes to it.
            UsageError: it is no folder.
        """
        path = _free_name(Path("runs"), name) if output is None else Path(output)
        with _explained(path):
            if path.is_symlink() or (path.exists() and not path.is_dir()):
                raise UsageError(f"The output {path} is not a folder: give another --output.")
            if path.is_dir() and any(path.iterdir()):
                _may_replace(path, overwrite=overwrite)
                cls(path)._hold().release()
            _try_writing(next(folder for folder in [path, *path.absolute().parents] if folder.exists()))
        return path

    @classmethod
    def create(cls, path: Path, *, overwrite: bool = False) -> RunFolder:
        """Make the folder that `check` returned, empty."""
        with _explained(path):
            if path.is_dir() and any(path.iterdir()):
                _may_replace(path, overwrite=overwrite)
                cls(path)._hold().release()
                _empty(path)
            for folder in (path, path / "model", path / "pictures"):
                folder.mkdir(parents=True, exist_ok=True)
        return cls(path)._hold()

    @staticmethod
    def check_begun(path: Path) -> None:
        """Look whether a folder holds a run that can go on.

        Raises:
            RunError: there is no such run, or it ended before its recipe was written.
        """
        if not os.path.isdir(path):
            wrong = "is not a folder" if os.path.exists(path) else "does not exist"
            raise RunError(f"{path} {wrong}: give the folder of a run, such as runs/photos.")
        check_own(path)
        if not (path / "recipe.yaml").exists() or not (path / "plan.json").exists():
            raise RunError(f"{path} holds no run that can go on (it has no recipe.yaml and plan.json): train again.")

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open the folder of a run that is to go on, and take away what an interrupted write left behind.

        Raises:
            RunError: another training writes to it.
        """
        run = cls(path)._hold()
        with _explained(path):
            for leftover in path.rglob(".*.part"):
                leftover.unlink(missing_ok=True)
            (path / "manifest.json").unlink(missing_ok=True)
        return run

    def _hold(self) -> RunFolder:
        """Lock the folder until `release`; the system takes the lock away when this process ends, however it does."""
        if fcntl is None:
            return self
        handle = os.open(self.path, os.O_RDONLY)
        self._lock = weakref.finalize(self, os.close, handle)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._let_go()
            raise RunError(f"Another training is writing to {self.path}: wait for its end, or stop it.") from error
        except OSError:  # some network file systems know no locks
            self._let_go()
        return self

    def release(self) -> None:
        """Let other processes write to the folder, once what was handed over is written."""
        self._writer.shutdown()
        self._let_go()

    def _let_go(self) -> None:
        if self._lock is not None:
            self._lock()

    @property
    def worth_keeping(self) -> bool:
        """Whether a failure now leaves something that can be used: a model, or the state of a training."""
        return (self.model / "model.safetensors").exists() or (self.path / STATE).exists()

    def write(self, name: str, value: Any) -> None:
        """Write ``name`` in the folder: text as it is, anything else as JSON."""
        if isinstance(value, str):
            write_text(self.path / name, value)
        else:
            write_json(self.path / name, value)

    def behind(self, write: Callable[[], None]) -> None:
        """Call `write` while the caller goes on, once what was handed over before is written.

        Raises:
            RunError: that could not be written.
        """
        self.settle()
        self._writing = self._writer.submit(write)

    def settle(self) -> None:
        """Wait until what was handed over is written.

        Raises:
            RunError: it could not be written.
        """
        if self._writing is not None:
            wait([self._writing])
            written, self._writing = self._writing, None
            written.result()

    def append(self, name: str, line: str, *, sync: bool = False) -> None:
        """Add a line to a growing file."""
        file = self.path / name
        with _explained(file), open(file, "a", encoding="utf-8", newline="\n") as handle:
            handle.write(line.rstrip("\n") + "\n")
            if sync:
                handle.flush()
                os.fsync(handle.fileno())

    def log(self, event: dict[str, Any], *, sync: bool = False) -> None:
        """Add an event to log.jsonl."""
        self.append("log.jsonl", json_text(event), sync=sync)

    def cut(self, name: str, length: int) -> None:
        """Cut a growing file back to so many bytes: what a run that goes on will write again."""
        with _explained(self.path / name), open(self.path / name, "r+b") as handle:
            handle.truncate(min(length, self.length(name)))

    def length(self, name: str) -> int:
        """Return the bytes of a file so far; 0 where there is none."""
        file = self.path / name
        return file.stat().st_size if file.exists() else 0

    def seal(self) -> None:
        """Write manifest.json: the SHA-256 of every other file."""
        self.settle()
        files = sorted(f for f in self.path.rglob("*") if f.is_file() and f.name != "manifest.json")
        digests = {file.relative_to(self.path).as_posix(): sha256(file) for file in files}
        self.write("manifest.json", Manifest(layout=LAYOUT, sha256=digests))


class Elsewhere(RunFolder):
    """The run folder for every process but the first, which alone writes: it can be read."""

    def write(self, name: str, value: Any) -> None:
        """Leave it to the first process."""

    def append(self, name: str, line: str, *, sync: bool = False) -> None:
        """Leave it to the first process."""

    def cut(self, name: str, length: int) -> None:
        """Leave it to the first process."""

    def seal(self) -> None:
        """Leave it to the first process."""


def check_own(path: Path) -> None:
    """Look that a run's folder holds ordinary files and folders, so that nothing else is read or written through it.

    Raises:
        RunError: names a link, a pipe or a device in it.
    """
    for entry in path.rglob("*"):
        if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
            raise RunError(f"{entry} is no file of the run's own but a link or a device: put a copy in its place.")


def verify(path: Path, below: str = "") -> None:
    """Compare a sealed run folder with its manifest; a folder without one (a run that is going on) passes.

    Args:
        below: look only at files whose place in the folder begins so, such as ``model/``.

    Raises:
        RunError: names the first file that is missing or was changed.
    """
    check_own(path)
    file = path / "manifest.json"
    if not file.exists():
        return
    for name, digest in read_record(file, Manifest).sha256.items():
        if not name.startswith(below):
            continue
        if not (path / name).is_file():
            raise RunError(f"{path / name} is missing, but the run's manifest lists it: restore it from a copy.")
        if sha256(path / name) != digest:
            raise RunError(f"{path / name} was changed or damaged since the run was saved: restore it from a copy.")


def reseal(path: Path, names: Collection[str]) -> None:
    """Renew what a sealed folder's manifest says of files that were written again or removed, and of no other."""
    file = path / "manifest.json"
    if file.exists():
        said = read_record(file, Manifest)
        digests = {name: digest for name, digest in said.sha256.items() if name not in names}
        digests |= {name: sha256(path / name) for name in names if (path / name).exists()}
        write_json(file, replace(said, sha256=dict(sorted(digests.items()))))


def read_record(file: Path, kind: type[T], key: str | None = None) -> T:
    """Read a JSON file as a record, or a container of them: of the whole file, or of what stands under a key in it.

    Raises:
        RunError: it is missing, no JSON, or not such a record: what comes back can be relied on.
    """
    said = read_json(file)
    try:
        return from_json(kind, said if key is None else said[key])
    except (ValueError, LookupError, TypeError) as error:
        why = f"the key {error} is missing" if isinstance(error, KeyError) else error
        raise RunError(f"{file} can't be used ({why}): restore it from a copy.") from error


def read_json(file: Path) -> Any:
    """Read a JSON file.

    Raises:
        RunError: it is missing, or no JSON.
    """
    try:
        return json.loads(file.read_text("utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"{file} does not exist: give the folder of a finished run.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{file} can't be read ({error}): restore it from a copy.") from error


def sha256(file: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with open(file, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _free_name(parent: Path, name: str) -> Path:
    path, number = parent / name, 2
    while path.exists():
        path, number = parent / f"{name}-{number}", number + 1
    return path


def _may_replace(path: Path, *, overwrite: bool) -> None:
    """Only what hubel wrote is ever replaced, and only when asked."""
    if not overwrite:
        raise RunError(
            f"The output {path} exists and is not empty: give another --output, or --overwrite to replace it."
        )
    if not _holds_a_run(path):
        raise RunError(
            f"The output {path} is not empty and holds no run of hubel: it is not replaced; give another one."
        )


def _holds_a_run(path: Path) -> bool:
    """Whether a folder is a run's, or was to become one whose training was killed before its recipe was written."""
    if (path / "recipe.yaml").exists():
        return True
    if not (path / "model").is_dir() or not (path / "pictures").is_dir():
        return False
    first = ("log.jsonl", "plan.json", ".plan.json.", ".recipe.yaml.")
    return all(f.parent == path and f.name.startswith(first) for f in path.rglob("*") if not f.is_dir())


def _empty(path: Path) -> None:
    """Remove what a run's folder holds: its recipe last, so that a folder half emptied is still known as a run's."""
    for entry in sorted(path.iterdir(), key=lambda entry: entry.name == "recipe.yaml"):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _try_writing(folder: Path) -> None:
    with tempfile.TemporaryFile(dir=folder):
        pass


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows can't open folders
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    """Turn an OSError into one sentence."""
    try:
        yield
    except OSError as error:
        remedy = {
            errno.ENOSPC: "free some space and start again",
            errno.EDQUOT: "free some space and start again",
            errno.EACCES: "choose a folder that you may write to with --output",
            errno.EPERM: "choose a folder that you may write to with --output",
            errno.EROFS: "choose a folder that you may write to with --output",
        }.get(error.errno or 0, "check the disk, or choose another --output")
        raise RunError(f"{file} can't be written ({error.strerror or error}): {remedy}.") from error
