"""Finding named data: the user's folder, the cache, a download that is checked; never the real network."""

import hashlib
import io
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from genloom.core.errors import DataError
from genloom.modalities import homes
from genloom.modalities.homes import REMOTES, Remote, fetch, locate

CONTENT = b"some data" * 100
GOOD = Remote("file.gz", "https://example.org/file.gz", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


class Answer(io.BytesIO):
    url = "https://example.org/file.gz"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("GENLOOM_DATA", raising=False)


def serve(monkeypatch: pytest.MonkeyPatch, answer: Answer) -> None:
    def urlopen(*_: Any, **__: Any) -> Answer:
        return answer

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)


def test_a_good_download_is_kept_and_not_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "new" / "file.gz"
    serve(monkeypatch, Answer(CONTENT))
    fetch(GOOD, target)
    assert target.read_bytes() == CONTENT
    serve(monkeypatch, Answer(b""))
    fetch(GOOD, target)
    assert [path.name for path in target.parent.iterdir()] == ["file.gz"]


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT[:-1] + b"x", CONTENT + b"x", b""])
def test_a_wrong_file_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    serve(monkeypatch, Answer(content))
    with pytest.raises(DataError, match="not the expected file of 900 bytes"):
        fetch(GOOD, tmp_path / "file.gz")
    assert list(tmp_path.iterdir()) == []


def test_no_more_is_read_than_expected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endless = Answer(CONTENT * 50)
    taken: list[int] = []

    def read(size: int) -> bytes:
        taken.append(size)
        return b"x" * size

    monkeypatch.setattr(endless, "read", read)
    serve(monkeypatch, endless)
    with pytest.raises(DataError, match="not the expected"):
        fetch(GOOD, tmp_path / "file.gz")
    assert sum(taken) == GOOD.size + 1


def test_a_redirection_to_plain_http_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Answer(CONTENT)
    answer.url = "http://example.org/file.gz"
    serve(monkeypatch, answer)
    with pytest.raises(OSError, match="https"):
        fetch(GOOD, tmp_path / "file.gz")
    assert list(tmp_path.iterdir()) == []


def test_the_users_folder_comes_first_then_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = tmp_path / "cache" / "genloom" / "mnist"
    cached.mkdir(parents=True)
    for remote in REMOTES["mnist"]:
        (cached / remote.name).touch()
    assert locate("mnist") == cached
    mine = tmp_path / "mine" / "mnist"
    monkeypatch.setenv("GENLOOM_DATA", str(mine.parent))
    assert locate("mnist") == cached
    mine.mkdir(parents=True)
    (mine / "anything").touch()
    assert locate("mnist") == mine


def test_missing_files_of_the_cache_are_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(homes, "REMOTES", {"mnist": (GOOD,)})
    serve(monkeypatch, Answer(CONTENT))
    assert (locate("mnist") / "file.gz").read_bytes() == CONTENT


def test_offline_the_error_says_where_it_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENLOOM_DATA", "/some/where")
    with pytest.raises(DataError, match="cannot be downloaded") as caught:
        locate("cifar10")
    for words in ("/some/where/cifar10", str(tmp_path / "cache" / "genloom" / "cifar10"), "set GENLOOM_DATA"):
        assert words in str(caught.value)


def test_without_a_public_home_nothing_is_tried() -> None:
    with pytest.raises(DataError, match="no public home: set GENLOOM_DATA"):
        locate("cifar10-jpeg")


def test_homes_are_https_with_full_checksums() -> None:
    for remote in (remote for remotes in REMOTES.values() for remote in remotes):
        assert remote.url.startswith("https://")
        assert len(bytes.fromhex(remote.sha256)) == 32
