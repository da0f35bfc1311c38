"""A run folder: whole or absent, never overwritten unasked, and sealed with checksums."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from hubel.errors import RunError, UsageError
from hubel.runs import RunFolder, read_json, verify, write_bytes, write_json


def made(path: Path) -> RunFolder:
    run = RunFolder.create(path)
    run.write("recipe.yaml", "seed: 0\n")
    return run


def test_names_count_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = RunFolder.check(None, "flowers")
    assert first == Path("runs/flowers")
    made(first)
    assert RunFolder.check(None, "flowers") == Path("runs/flowers-2")


def test_an_existing_run_is_kept_unless_asked(tmp_path: Path) -> None:
    made(tmp_path / "run")
    with pytest.raises(RunError, match="exists and is not empty: give another --output"):
        RunFolder.check(tmp_path / "run", "run")
    run = RunFolder.create(RunFolder.check(tmp_path / "run", "run", overwrite=True), overwrite=True)
    assert not (run.path / "recipe.yaml").exists()


def test_a_run_that_was_killed_before_its_recipe_was_written_is_replaced(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    run.log({"kind": "note"})
    (run.path / ".recipe.yaml.123.part").touch()
    run.release()
    again = RunFolder.create(RunFolder.check(run.path, "run", overwrite=True), overwrite=True)
    assert not any(file.is_file() for file in again.path.rglob("*"))


@pytest.mark.parametrize("removals", range(4))
def test_a_run_whose_replacement_was_killed_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, removals: int
) -> None:
    run = made(tmp_path / "run")
    (run.path / "metrics.csv").touch()
    run.release()
    calls = iter(range(removals))
    unlink, rmtree = Path.unlink, shutil.rmtree

    def killed(remove: Callable[[Path], None], path: Path) -> None:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        remove(path)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "unlink", lambda path: killed(unlink, path))
        patched.setattr(shutil, "rmtree", lambda path: killed(rmtree, path))
        RunFolder.create(run.path, overwrite=True)
    again = RunFolder.create(RunFolder.check(run.path, "run", overwrite=True), overwrite=True)
    assert not any(file.is_file() for file in again.path.rglob("*"))


def test_a_foreign_folder_is_never_replaced(tmp_path: Path) -> None:
    for name in ("thesis.doc", "pictures/1.jpg", "log.jsonl"):
        folder = tmp_path / name.replace("/", "-")
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("years of work")
        with pytest.raises(RunError, match="holds no run of hubel"):
            RunFolder.check(folder, "run", overwrite=True)
        assert (folder / name).read_text() == "years of work"


def test_a_file_as_output_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is not a folder"):
        RunFolder.check(tmp_path / "file", "run")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission_is_one_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RunError, match="Permission denied"):
        RunFolder.check(tmp_path / "run", "run")


def test_no_file_takes_the_place_of_a_device_or_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for file in (tmp_path / "pipe", tmp_path / "link", Path("/dev/stdout"), Path("/dev/none"), Path("/proc/self/fd/1")):
        with pytest.raises(RunError, match="is a device or a pipe"):
            write_bytes(file, b"text")
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("moment", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    file = tmp_path / "model.safetensors"
    write_bytes(file, b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if moment == "write":
        monkeypatch.setattr("builtins.open", full)
    else:
        monkeypatch.setattr(os, moment, full)
    with pytest.raises(RunError, match="No space left on device.*free some space"):
        write_bytes(file, b"new and longer")
    monkeypatch.undo()
    assert file.read_bytes() == b"old"
    assert [f.name for f in tmp_path.iterdir()] == ["model.safetensors"]


def test_what_is_handed_over_is_written_in_its_order_before_the_folder_is_released(tmp_path: Path) -> None:
    run, goes_on = made(tmp_path / "run"), threading.Event()

    def write_later() -> None:
        goes_on.wait(10)
        write_bytes(run.path / "a", b"a")

    run.behind(write_later)
    assert not (run.path / "a").exists()  # the caller goes on meanwhile
    goes_on.set()
    run.behind(lambda: write_bytes(run.path / "b", (run.path / "a").read_bytes() + b"b"))
    run.release()
    assert (run.path / "b").read_bytes() == b"ab"
    RunFolder.open(run.path).release()


@pytest.mark.parametrize("then", ["behind", "settle", "seal"])
def test_what_could_not_be_written_is_said_by_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    run = made(tmp_path / "run")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    run.behind(lambda: write_bytes(run.path / "state", b"new"))
    with pytest.raises(RunError, match="state can't be written .No space left on device.*free some space"):
        run.behind(lambda: None) if then == "behind" else getattr(run, then)()
    monkeypatch.undo()
    run.settle()  # it is said once
    run.seal()
    verify(run.path)


def test_a_sealed_run_notices_any_change(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    run.write("scores.json", {"accuracy": 0.5})
    run.seal()
    verify(run.path)
    (run.path / "scores.json").write_text('{"accuracy": 0.9}')
    with pytest.raises(RunError, match="scores.json was changed or damaged"):
        verify(run.path)
    (run.path / "scores.json").unlink()
    with pytest.raises(RunError, match="scores.json is missing"):
        verify(run.path)


def test_json_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(RunError, match="can't be read"):
        read_json(tmp_path / "x.json")
    with pytest.raises(RunError, match="does not exist"):
        read_json(tmp_path / "y.json")
    write_json(tmp_path / "z.json", {"ö": [1, 2]})
    assert read_json(tmp_path / "z.json") == {"ö": [1, 2]}


@pytest.mark.skipif(sys.platform == "win32", reason="folders can't be locked")
def test_a_run_has_one_writer(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    run.write("recipe.yaml", "")
    with pytest.raises(RunError, match="Another training is writing"):
        RunFolder.open(run.path)
    with pytest.raises(RunError, match="Another training is writing"):
        RunFolder.create(run.path, overwrite=True)
    assert (run.path / "recipe.yaml").exists()
    run.release()
    again = RunFolder.open(run.path)
    del again  # whoever is gone holds nothing
    RunFolder.create(run.path, overwrite=True).release()
