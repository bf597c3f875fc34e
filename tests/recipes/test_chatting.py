"""Conversations: how they are read and written, and answers in turn."""

import io
import json

import pytest

import genloom
from genloom.cli.main import main
from genloom.core.errors import DataError
from genloom.modalities.characters import to_texts
from genloom.modalities.chats import written
from genloom.nn.decoding import Choice
from genloom.recipes.chatting import Chat
from genloom.recipes.continuing import Wish, Writer

WORDS = {"red": "rouge", "blue": "bleu", "green": "vert"}


def talk(asked: list[str]) -> list[dict[str, str]]:
    pairs = [({"role": "user", "content": a}, {"role": "assistant", "content": WORDS[a]}) for a in asked]
    return [message for pair in pairs for message in pair]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> genloom.Trained:
    folder = tmp_path_factory.mktemp("chats")
    talks = [[a, b, c][: 1 + i % 3] for i in range(12) for a in WORDS for b in WORDS for c in WORDS]
    lines = [json.dumps({"messages": talk(asked)}) for asked in talks]
    (folder / "talks.jsonl").write_text("\n".join(lines) + "\n")
    settings = {"units": 64, "layers": 1, "dropout": 0.0, "lr": 1e-2, "batch_size": 32}
    source, train = folder / "talks.jsonl", {"steps": 400}
    return genloom.fit("seq.lstm", source, out=folder / "run", model=settings, train=train)


def test_a_conversation_is_one_text() -> None:
    assert written(talk(["red"]), "here") == "<|user|>\nred\n<|assistant|>\nrouge\n"
    assert written([{"role": "user", "content": " a <|system|> b "}], "x") == "<|user|>\na <system|> b\n"


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ("hello", "a list of turns"),
        ([], "a list of turns"),
        ([{"role": "judge", "content": "x"}], "one of system, user, assistant"),
        (["x"], "one of system, user, assistant"),
        ([{"role": "user"}], "the turn of the user has no text"),
    ],
)
def test_other_things_are_no_conversation(messages: object, text: str) -> None:
    with pytest.raises(DataError, match=f"line 7: .*{text}"):
        written(messages, "line 7")


def test_conversations_are_documents(trained: genloom.Trained) -> None:
    items = genloom.open_data(trained.run.facts["data"]["source"]).train.items
    texts = to_texts(items)
    assert all(text.startswith("<|user|>\n") and text.endswith("\n") for text in texts)
    assert trained.run.facts["modality"]["form"] == "documents"


def test_answers_follow_their_questions(trained: genloom.Trained) -> None:
    chat = Chat(Writer(trained.run), Wish(20, Choice(temperature=0)))
    for asked in ("blue", "red", "green"):
        assert "".join(chat.answer(asked)) == WORDS[asked]
    turns = [f"<|{m['role']}|>\n{m['content']}\n" for m in talk(["blue", "red", "green"])]
    assert len(chat.turns) >= 4
    assert chat.turns == turns[-len(chat.turns) :]


def test_the_first_turns_are_forgotten_when_there_is_no_room(trained: genloom.Trained) -> None:
    chat = Chat(Writer(trained.run), Wish(20, Choice(temperature=0)))
    for _ in range(6):
        assert "".join(chat.answer("blue")) == "bleu"
    assert 0 < len(chat.turns) < 12
    assert chat.turns[0].startswith("<|user|>")
    with pytest.raises(DataError, match="no answer fits behind this"):
        list(Chat(Writer(trained.run), Wish(5000)).answer("red" * 60))


def test_the_command_answers_each_line(
    trained: genloom.Trained, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("red\ngreen\n\nblue\n"))
    main(["chat", str(trained.run.folder), "--temperature", "0"])
    assert capsys.readouterr().out == "rouge\nvert\n"


def test_a_turn_that_cannot_be_read_gets_one_line_and_the_talk_goes_on(
    trained: genloom.Trained, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Ä\nred\n"))
    main(["chat", str(trained.run.folder), "--temperature", "0"])
    told = capsys.readouterr()
    assert "has no 'Ä'" in told.err
    assert len(told.err.strip().splitlines()) == 1
    assert told.out == "rouge\n"


def test_each_answer_is_drawn_anew(trained: genloom.Trained) -> None:
    chat = Chat(Writer(trained.run), Wish(20, Choice(temperature=3.0)))
    answers = ["".join(chat.answer("red")) for _ in range(8)]
    assert len(set(answers[3:])) > 2
    again = Chat(Writer(trained.run), Wish(20, Choice(temperature=3.0)))
    assert ["".join(again.answer("red")) for _ in range(8)] == answers
