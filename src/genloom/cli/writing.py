"""The commands that write texts."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from genloom.cli.shared import MOST, Json, Out, Seed, Training, emit, speaker, within
from genloom.core.errors import ConfigError, DataError
from genloom.nn.decoding import Choice, Greedy
from genloom.recipes.chatting import Chat, Lively
from genloom.recipes.continuing import Precision, Wish, Writer
from genloom.recipes.rewarding import BATCH, STEPS, Tuning, matches, reinforce
from genloom.recipes.runs import open_run
from genloom.recipes.translating import GREEDY, Search, Translator
from genloom.train.checkpoint import write_atomically
from genloom.train.config import TrainConfig

Arithmetic = Annotated[Precision, Parameter(help="Of the arithmetic; bf16 is faster for many texts.")]
Compiled = Annotated[
    bool, Parameter(name="--compile", negative=(), help="Draw faster after a minute of compilation.")
]


def continue_command(
    run: Path,
    prompt: str = "",
    *,
    n: Annotated[int, Parameter(name=("-n", "--n"), help="How many continuations.")] = 1,
    length: Annotated[int, Parameter(help="Symbols of each at most.")] = 200,
    choice: Annotated[Choice, Parameter(name="*")] = Choice(),  # noqa: B008
    stop: Annotated[
        tuple[str, ...], Parameter(negative=(), help="End before this string; may be repeated.")
    ] = (),
    pattern: Annotated[
        str | None, Parameter(help="A regular expression that the continuation matches.")
    ] = None,
    beam: Annotated[
        int | None, Parameter(help="Search for the likeliest with so many hypotheses, and show -n of them.")
    ] = None,
    length_penalty: Annotated[float, Parameter(help="Of a beam: above 0 for longer texts.")] = 0.0,
    helper: Annotated[
        Path | None, Parameter(help="A smaller run on the same texts, whose guesses make drawing faster.")
    ] = None,
    label: Annotated[str | None, Parameter(help="A class, by name or number.")] = None,
    precision: Arithmetic = "fp32",
    compiled: Compiled = False,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Go on writing where a text ends.

    Args:
        run: a run directory of a model of texts.
        prompt: what comes before; nothing if absent.
    """
    wish = Wish(within(1, length, MOST, "--length"), choice, stop, pattern, label, seed)
    count = within(1, n, MOST, "-n")
    writer = Writer(open_run(run), None if helper is None else open_run(helper), precision, compiled)
    _print_anything()
    if helper is None and (notice := writer.notice(prompt, length)):
        speaker()(notice)
    if beam is not None:
        if not 0 <= length_penalty <= 10:
            raise ConfigError(f"--length-penalty must be from 0 to 10, not {length_penalty}")
        found = writer.search(prompt, within(count, beam, 1000, "--beam"), length_penalty, wish)[:count]
    elif length_penalty:
        raise ConfigError("--length-penalty is of a search: give a width with --beam, or leave it out")
    elif count == 1 and not json and pattern is None:
        pieces = writer.pieces(prompt, wish)
        print(f"{prompt}{next(pieces)}", end="", flush=True)
        for piece in pieces:
            print(piece, end="", flush=True)
        return print()
    else:
        found = writer.write([prompt] * count, wish)
    if pattern is not None and not all(one.ended for one in found):
        missed = sum(not one.ended for one in found)
        speaker()(f"{missed} of {count} do not match the pattern within {length} symbols")
    if json:
        return emit({"run": str(run), "seed": seed, "continuations": [vars(one) for one in found]})
    for one in found:
        print(f"{one.prompt}{one.text}")
    return None


def translate_command(
    run: Path,
    *texts: str,
    file: Annotated[Path | None, Parameter(help="A UTF-8 file with a text on each line.")] = None,
    choice: Annotated[Greedy, Parameter(name="*")] = GREEDY,
    beam: Annotated[int | None, Parameter(help="Search for the likeliest with so many hypotheses.")] = None,
    length_penalty: Annotated[
        float | None, Parameter(help="Of a beam: above 0 for longer texts; 0.6 if absent.")
    ] = None,
    attention: Annotated[
        Path | None, Parameter(help="An SVG of what each part of the translation of one text looks at.")
    ] = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Turn texts into others, one a line.

    Args:
        run: a run directory of a model of pairs of texts.
        texts: what to translate.
    """
    given = [*texts, *([] if file is None else _lines(file))]
    if not given:
        raise ConfigError("translate needs a text, or a --file with one on each line")
    if beam is None and length_penalty is not None:
        raise ConfigError("--length-penalty is of a search: give a width with --beam, or leave it out")
    if attention is not None and len(given) != 1:
        raise ConfigError(f"--attention is a picture of one text, not of {len(given)}")
    search = None
    if beam is not None:
        search = Search(beam, Search.length_penalty if length_penalty is None else length_penalty)
    translator = Translator(open_run(run))
    found = translator.translate(given, choice, search, seed)
    if attention is not None:
        write_atomically(attention, translator.attention(found[0].source, found[0].text))
    if json:
        return emit({"run": str(run), "seed": seed, "translations": [vars(one) for one in found]})
    _print_anything()
    for one in found:
        print(one.text)
    return None


def chat_command(
    run: Path,
    *,
    system: Annotated[str, Parameter(help="What is said before the first turn.")] = "",
    length: Annotated[int, Parameter(help="Symbols of an answer at most.")] = 200,
    choice: Annotated[Lively, Parameter(name="*")] = Lively(),  # noqa: B008
    precision: Arithmetic = "fp32",
    compiled: Compiled = False,
    seed: Seed = 0,
) -> None:
    """Talk with a model of conversations: a line is a turn, an empty one or the end of input is the end.

    Args:
        run: a run directory of a model of texts that was fitted to conversations.
    """
    wish = Wish(within(1, length, MOST, "--length"), choice, seed=seed)
    chat = Chat(Writer(open_run(run), None, precision, compiled), wish, system)
    _print_anything()
    while line := _asked():
        try:
            for piece in chat.answer(line):
                print(piece, end="", flush=True)
            print(flush=True)
        except DataError as error:
            speaker()(str(error))


def reinforce_command(
    run: Path,
    pattern: str,
    *,
    beta: Annotated[float, Parameter(help="Reward that a nat away from what the model was costs.")] = 0.1,
    lr: Annotated[float, Parameter(help="Peak rate of AdamW.")] = 1e-3,
    train: Training = TrainConfig(),  # noqa: B008
    seed: Seed = 0,
    out: Out = None,
    json: Json = False,
) -> None:
    """Tune a model of texts so that more of what it draws matches a regular expression, at the least change.

    Args:
        run: a run directory of a neural model of texts.
        pattern: a text that it matches as a whole is rewarded with 1.
    """
    settings = train if train.lasting(1) == train else train.model_copy(update={"steps": STEPS})
    tuning = Tuning(settings, beta, lr, settings.batch_size or BATCH, seed, pattern)
    folder = out or run.with_name(f"{run.name}-rewarded")
    made = reinforce(open_run(run), matches(pattern), folder, tuning, progress=not json, say=speaker())
    if json:
        return emit(made.facts)
    best = made.facts["best"]["value"]
    print(
        f"{folder / 'model.safetensors'}: {made.facts['steps']:,} steps, reward less divergence {-best:.3f}"
    )


def _asked() -> str:
    """Return the next turn, nothing at the end."""
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return ""


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8 at byte {error.start:,}: save it as UTF-8") from error


def _print_anything() -> None:
    """Let characters that the terminal does not know be printed as their numbers."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")
