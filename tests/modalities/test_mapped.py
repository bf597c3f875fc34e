"""Long texts: the same code points from memory and from a mapped file, and nothing else held in memory."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import genloom
from genloom.core.errors import DataError
from genloom.modalities import mapped
from genloom.modalities.characters import cut_anew, neighbours
from genloom.modalities.corpora import is_one
from genloom.modalities.datasets import DataOptions, open_data
from genloom.modalities.mapped import code_points

TEXT = "\ufeffA caf\u00e9 \U0001d11e\r\nends\rhere.\n\nAnd \u6f22\u5b57 go on.\n"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "text.txt"
    path.write_bytes((TEXT * 40).encode())
    return path


@pytest.mark.parametrize("chunk", [1, 3, 7, 2**22])
@pytest.mark.parametrize("small", [0, 2**26])
def test_code_points_are_those_of_the_text(
    path: Path, monkeypatch: pytest.MonkeyPatch, small: int, chunk: int
) -> None:
    monkeypatch.setattr(mapped, "SMALL", small)
    monkeypatch.setattr(mapped, "CHUNK", chunk)
    expected = (TEXT * 40).removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    for _ in range(2):
        assert code_points(path).tolist() == [ord(c) for c in expected]


def test_a_changed_file_is_read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "SMALL", 0)
    for number, text in enumerate(("one text", "another!", "a longer one")):
        path.write_text(text, encoding="utf-8")
        os.utime(path, ns=(number, number))
        assert code_points(path).tolist() == [ord(c) for c in text]
    assert len([p for p in path.parent.rglob("*.int32") if p.is_file()]) == 1


def test_a_damaged_file_is_written_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "SMALL", 0)
    expected = code_points(path).tolist()
    (kept,) = path.parent.rglob("*.int32")
    for length in (0, 8):
        kept.write_bytes(kept.read_bytes()[:length])
        assert code_points(path).tolist() == expected


@pytest.mark.parametrize(("start", "place"), [(b"", 5001), (b"\xc3\xa9", 5003), (b"\xef\xbb\xbf", 5004)])
@pytest.mark.parametrize("chunk", [7, 2**22])
def test_the_byte_that_is_wrong_is_named(
    path: Path, monkeypatch: pytest.MonkeyPatch, start: bytes, place: int, chunk: int
) -> None:
    monkeypatch.setattr(mapped, "CHUNK", chunk)
    path.write_bytes(start + b"x" * 5001 + b"\xff" + b"y" * 9)
    with pytest.raises(DataError, match=f"no UTF-8 at byte {place:,}:"):
        code_points(path)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("text", "whole"), [("line {}\n", False), ("line {}\n\n", True), ("line {}\n\u3000\n", True)]
)
def test_a_text_is_lines_whatever_ends_them(path: Path, end: str, text: str, whole: bool) -> None:
    lines = "".join(text.format(i) for i in range(30)) + ("" if whole else "\n\n")
    path.write_bytes(("\ufeff" + lines.replace("\n", end)).encode())
    assert is_one(path) == whole


def test_a_mapped_text_makes_the_same_data(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = DataOptions(text="blocks", block=8)
    whole = open_data(str(path), options)
    monkeypatch.setattr(mapped, "SMALL", 0)
    found = open_data(str(path), options)
    assert found.fingerprint == whole.fingerprint
    assert found.modality.describe() == whole.modality.describe()
    assert torch.equal(found.train.items, whole.train.items)


@pytest.mark.parametrize("small", [0, 2**26])
@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "is empty"), (b" \n\n ", "is empty"), (b"fine\xff", "no UTF-8"), (b"a\0b", "the character 0")],
)
def test_what_is_no_text(
    path: Path, monkeypatch: pytest.MonkeyPatch, small: int, content: bytes, said: str
) -> None:
    monkeypatch.setattr(mapped, "SMALL", small)
    path.write_bytes(content)
    with pytest.raises(DataError, match=said):
        code_points(path)
    assert not [p for p in path.parent.rglob("*.int32") if p.is_file()]


def test_a_full_disk_is_told_before_anything_is_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "SMALL", 0)
    monkeypatch.setattr(mapped.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(DataError, match=r"has 0\.0 GiB free, .* make room"):
        code_points(path)


def test_training_rows_overlap_in_the_same_memory() -> None:
    blocks = torch.arange(12).view(4, 3)
    pairs = neighbours(blocks)
    assert pairs.tolist() == [[0, 1, 2, 3, 4, 5], [3, 4, 5, 6, 7, 8], [6, 7, 8, 9, 10, 11]]
    assert pairs.data_ptr() == blocks.data_ptr()
    assert neighbours(blocks[:1]).tolist() == [[0, 1, 2]]
    assert cut_anew(neighbours(blocks[:1]), 3, None).tolist() == [[0, 1, 2]]  # type: ignore[arg-type]


LIMITED = """
import resource, sys
import torch, genloom
from genloom.modalities import mapped
torch.set_num_threads(1)
mapped.SMALL = int(sys.argv[4])
room = int(open("/proc/self/status").read().split("VmData:")[1].split()[0]) * 1024 + int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_DATA, (room, room))
small = {"width": 16, "heads": 2, "groups": 2, "layers": 1}
genloom.fit("seq.gpt", sys.argv[1], model=small, out=sys.argv[2], train={"steps": 2}, data={"text": "blocks"})
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of memory is Linux's")
@pytest.mark.parametrize("small", [mapped.SMALL, 2**40], ids=["mapped", "in memory"])
def test_only_a_mapped_text_may_be_larger_than_memory(path: Path, tmp_path: Path, small: int) -> None:
    """The code points of the text are all that the process may have beyond what it starts with."""
    text, copies = b"All the words of a long, long book, again. ", 2_400_000
    path.write_bytes(text * copies)
    out, room = tmp_path / "run", 4 * len(text) * copies
    command = [sys.executable, "-c", LIMITED, str(path), str(out), str(room), str(small)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if small == mapped.SMALL:
        assert done.returncode == 0, done.stderr
        assert genloom.load(out).run.facts["state"] == "finished"
    else:
        assert "MemoryError" in done.stderr
        assert not out.exists()
