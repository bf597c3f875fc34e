"""The four verbs in Python: ``compare``, ``fit``, ``load`` and ``evaluate``."""

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, Self, TypeVar

import torch
from pydantic import BaseModel, Field, ValidationError, validate_call
from torch import Tensor, nn

from genloom.core.errors import ConfigError, DataError, complaint
from genloom.core.events import Value
from genloom.core.likelihood import LogProb
from genloom.metrics import Figure
from genloom.modalities.base import Split
from genloom.modalities.datasets import DataOptions
from genloom.nn.decoding import Choice, Greedy
from genloom.recipes import averaging, comparing, editing, evaluating, fitting, rewarding
from genloom.recipes.continuing import Continuation, Precision, Wish, Writer
from genloom.recipes.drawing import conditions_for, write_samples
from genloom.recipes.rewarding import Tuning
from genloom.recipes.runs import Run, open_run
from genloom.recipes.translating import Search, Translation, Translator
from genloom.report.schema import Results
from genloom.tasks import infilling, latents, restoring, sampling, scoring
from genloom.train.config import TrainConfig

P = ParamSpec("P")
R = TypeVar("R")
Positive = Annotated[int, Field(ge=1)]


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Refuse arguments of the wrong type or range with one ``ConfigError``."""
    validated, names = validate_call(function), list(signature(function).parameters)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return validated(*args, **kwargs)
        except ValidationError as error:
            details = error.errors()[0]
            place, *rest = details["loc"]
            name = names[place] if isinstance(place, int) else place
            raise ConfigError(complaint([{**details, "loc": (name, *rest)}])) from error

    return call


class Trained:
    """A trained model with the data's codec around it: items in, items out."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.model: nn.Module = run.load()
        self._writer: tuple[tuple[Precision, bool], Writer] | None = None

    @checked
    def sample(
        self,
        n: Positive,
        *,
        seed: int = 0,
        label: str | int | None = None,
        given: dict[str, float] | None = None,
        prompt: str | None = None,
    ) -> Tensor:
        """Draw n items; item i of a seed is the same whatever n.

        Args:
            label: a class by name or number, or ``each`` in turn, for a conditional model; drawn as in the
                training data if absent.
            given: values of the given columns, for a model that has some; the test rows' in turn if absent.
            prompt: a text that says what is wanted, for a model that is given texts; the captions of test
                items in turn if absent.

        Returns:
            Items in the data's own form: uint8 images (n, C, H, W) or float64 rows (n, D).

        Raises:
            ConfigError, DataError: n is not positive, or there is no such class or column.
        """
        cond = conditions_for(self.run, n, seed, label, given, prompt)
        return self.run.sample(self.model, n, seed=seed, cond=cond)

    def sample_towards(
        self,
        reward: Callable[[Tensor], Tensor],
        n: int,
        *,
        label: str | int | None = None,
        prompt: str | None = None,
        seed: int = 0,
    ) -> Tensor:
        """Draw n items, those of more reward more often.

        Args:
            reward: maps items (B, *S) as the model sees them, images from -1 to 1 and not on their levels, to
                nats (B,); differentiable by torch. The logarithm of a classifier's probability is one.
            label: a class by name or number, for a conditional model; none if absent.
            prompt: a text, for a model that is given texts; none if absent.

        Raises:
            ConfigError: n is not positive, or there is no such class.
            Unsupported: the family cannot be steered.
        """
        if n < 1:
            raise ConfigError(f"n must be at least 1, not {n}")
        cond = self._asked(n, label, prompt, seed)
        return self.run.view.decode(sampling.sample_towards(self.model, n, reward, seed=seed, cond=cond))

    @checked
    def write(
        self,
        n: Positive,
        out: str | Path,
        *,
        seed: int = 0,
        label: str | int | None = None,
        given: dict[str, float] | None = None,
        prompt: str | None = None,
    ) -> list[Path]:
        """Draw n items, write them to files below ``out`` with one picture of all, and return the files.

        Raises:
            ConfigError, DataError: n is not positive, there is no such class or column, or ``out`` holds
                something else.
        """
        drawn = write_samples(self.run, n, seed=seed, label=label, given=given, prompt=prompt, out=Path(out))
        return drawn.files

    def average(self, out: str | Path, horizon: float | None = None) -> "Trained":
        """Return the model with weights averaged over another length of its training, kept in ``out``.

        Args:
            horizon: averaging time as a share of the steps; the best on validation if absent.

        Raises:
            ConfigError, RunError: it was fitted without snapshots, there is nothing to choose by, or ``out``
                holds something else.
        """
        return Trained(averaging.average_run(self.run, horizon, Path(out)).run)

    def _asked(self, n: int, label: str | int | None, prompt: str | None, seed: int) -> Value | None:
        """Return what n items are given, nothing where nothing is asked for."""
        if label is None and prompt is None:
            return None
        return conditions_for(self.run, n, seed, label, None, prompt)

    def log_prob(
        self, items: Tensor, *, label: str | int | None = None, prompt: str | None = None, seed: int = 0
    ) -> LogProb:
        """Return the log-likelihood of items (n, ...), in nats of the data, with its kind.

        Args:
            items: whole items, with the columns that are given, if any.
            label: a class by name or number, for log p(x | class) of a conditional model; without one it is
                log p(x), summed over the classes.
            prompt: a text, for log p(x | text) of a model that is given texts; none if absent.

        Raises:
            DataError: the items are not of the data's form: dtype, shape, range or missing values.
            ConfigError: there is no such class.
            Unsupported: the family has no likelihood.
        """
        items = self._checked(items)
        if label is None and prompt is None:
            return evaluating.score(self.model, self.run, Split(items), seed)
        cond, x = self._asked(len(items), label, prompt, seed), evaluating.seen(self.run, items)
        return self.run.view.to_data(scoring.log_prob(self.model, x, cond, seed=seed), x)

    def encode(self, items: Tensor) -> Tensor:
        """Return the code of each item (n, ...), (n, *Z).

        Raises:
            DataError: the items are not of the data's form: dtype, shape, range or missing values.
            Unsupported: the family has no codes.
        """
        items = self._checked(items)
        return latents.encode(
            self.model, evaluating.seen(self.run, items), self.run.view.conditions(Split(items))
        )

    def decode(self, codes: Tensor) -> Tensor:
        """Return the most typical item for each code (n, *Z), in the data's own form.

        Raises:
            Unsupported: the family has no codes.
        """
        try:
            return self.run.view.decode(latents.decode(self.model, torch.as_tensor(codes)))
        except (RuntimeError, TypeError, ValueError) as error:
            raise DataError(
                f"these codes do not fit the model: {' '.join(str(error).split())[:160]}"
            ) from error

    def reconstruct(self, items: Tensor) -> Tensor:
        """Return what is left of items (n, ...) after encoding and decoding them.

        Raises:
            DataError: the items are not of the data's form: dtype, shape, range or missing values.
            Unsupported: the family has no codes.
        """
        unlabelled = Split(self._checked(items))
        return evaluating.reconstructed(self.model, self.run, unlabelled)[0]

    def infill(
        self,
        items: Tensor,
        known: Tensor,
        *,
        label: str | int | None = None,
        prompt: str | None = None,
        seed: int = 0,
    ) -> Tensor:
        """Return items (n, ...) with their known values, and a draw of the others, in the data's own form.

        Args:
            items: what stands at unknown places has no effect, as long as it is legal.
            known: booleans, in the shape of the items or one that broadcasts to it.
            label: a class by name or number, for a conditional model; none if absent.
            prompt: a text, for a model that is given texts; none if absent.

        Raises:
            DataError: the items are not of the data's form, or ``known`` does not fit them.
            Unsupported: the family cannot infill.
        """
        x = editing.of_fixed_size(evaluating.seen(self.run, self._checked(items)))
        known = torch.as_tensor(known)
        cond = self._asked(len(x), label, prompt, seed)
        return self.run.view.decode(infilling.infill(self.model, x, known, seed=seed, cond=cond))

    def restore(
        self,
        known: Tensor,
        *,
        given: editing.Given = "small",
        blur: float = 1.5,
        label: str | int | None = None,
        prompt: str | None = None,
        seed: int = 0,
    ) -> Tensor:
        """Return images (n, C, H, W) of which this is known.

        Args:
            known: pixels in the units of the data, of small images (n, C, h, w), each the average of a
                square, of blurred ones (n, C, H, W), or of grey ones (n, 1, H, W).
            blur: deviation in pixels of what made blurred ones.
            label: a class by name or number, for a conditional model; none if absent.
            prompt: a text, for a model that is given texts; none if absent.

        Raises:
            ConfigError, DataError: what is known does not fit the run's images.
            Unsupported: the family cannot restore.
        """
        known = _numbers(known)
        cond = self._asked(len(known), label, prompt, seed)
        return editing.restored(self.run, self.model, known, given, blur, cond, seed)

    def redraw(
        self,
        items: Tensor,
        strength: float = 0.5,
        *,
        label: str | int | None = None,
        prompt: str | None = None,
        seed: int = 0,
    ) -> Tensor:
        """Return items (n, ...) drawn anew from what noise leaves of them, in the data's own form.

        Args:
            strength: above 0 and at most 1, where next to nothing is left.
            label: a class by name or number, for a conditional model; none if absent.
            prompt: a text, for a model that is given texts; none if absent.

        Raises:
            DataError: the items are not of the data's form.
            Unsupported: the family cannot redraw.
        """
        x = editing.of_fixed_size(evaluating.seen(self.run, self._checked(items)))
        cond = self._asked(len(x), label, prompt, seed)
        return self.run.view.decode(restoring.redraw(self.model, x, strength, seed=seed, cond=cond))

    @checked
    def continue_texts(
        self,
        prompts: list[str],
        *,
        length: Positive = 200,
        stop: tuple[str, ...] = (),
        pattern: str | None = None,
        label: str | int | None = None,
        precision: Precision = "fp32",
        compile: bool = False,
        seed: int = 0,
        **choice: Any,
    ) -> list[Continuation]:
        """Return a continuation of each prompt; number i depends on its prompt and the seed alone.

        Args:
            length: symbols of each at most.
            stop: a text is cut before the first of these.
            pattern: a regular expression that each continuation matches.
            precision: ``bf16`` is faster for many texts, and probabilities are off by a hundredth on average.
            compile: draw faster, after compilation in the first call with it.
            choice: settings of ``Choice``: ``temperature``, ``top_k``, ``top_p``, ``min_p``,
                ``repetition_penalty`` and ``guidance_scale``.

        Raises:
            ConfigError, DataError: a setting is out of range, a prompt cannot be read, or the pattern cannot
                be met.
            Unsupported: the run is no model of texts that predicts the next symbol.
        """
        wish = Wish(length, _settings(Choice, choice), stop, pattern, label, seed)
        if self._writer is None or self._writer[0] != (precision, compile):
            self._writer = (precision, compile), Writer(self.run, None, precision, compile)
        return self._writer[1].write(prompts, wish)

    @checked
    def translate(
        self,
        texts: list[str],
        *,
        beam: Positive | None = None,
        length_penalty: float = 0.6,
        seed: int = 0,
        **choice: Any,
    ) -> list[Translation]:
        """Return what becomes of each text, by the likeliest symbol each time unless told otherwise.

        Args:
            beam: search for the likeliest text with so many hypotheses.
            length_penalty: of a beam; above 0 for longer texts.
            choice: settings of ``Choice``, such as ``temperature``.

        Raises:
            ConfigError, DataError: a setting is out of range, or a text is empty or too long.
            Unsupported: the run is no model of pairs of texts.
        """
        search = None if beam is None else Search(beam, length_penalty)
        return Translator(self.run).translate(texts, _settings(Greedy, choice), search, seed)

    @checked
    def reinforce(
        self,
        reward: Callable[[Sequence[str]], Sequence[float]],
        out: str | Path,
        *,
        beta: float = 0.1,
        lr: float = 1e-3,
        batch_size: Positive = 128,
        train: Mapping[str, Any] | None = None,
        seed: int = 0,
        name: str = "a function",
        progress: bool = False,
    ) -> Self:
        """Tune a model of texts towards what is rewarded, near to what it was, and return it as a new run.

        Args:
            reward: returns a number for each text, the same for the same text.
            beta: what a nat of divergence from what the model was costs, in units of the reward.
            train: settings of ``TrainConfig``; 300 steps if absent.
            name: what the reward is called in ``run.json``; the same call goes on with what ``out`` holds.

        Raises:
            ConfigError, DataError: a setting is out of range, or a reward is no finite number.
            Unsupported: the run is no neural model of texts.
        """
        settings = _settings(TrainConfig, train or {"steps": 300})
        tuning = Tuning(settings, beta, lr, batch_size, seed, name)
        made = rewarding.reinforce(self.run, reward, Path(out), tuning, progress=progress, say=_silent)
        return type(self)(made)

    def _checked(self, items: Tensor) -> Tensor:
        items = _numbers(items)
        self.run.modality.check(items)
        return items


def _numbers(given: Tensor) -> Tensor:
    """Return what should be numbers as a tensor."""
    try:
        return torch.as_tensor(given)
    except (RuntimeError, TypeError, ValueError) as error:
        raise DataError(f"items must be a tensor or an array of numbers: {error}") from error


@checked
def fit(
    family: str,
    source: str | Path,
    *,
    out: str | Path | None = None,
    model: Mapping[str, Any] | None = None,
    train: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    view: str | None = None,
    conditional: Literal["auto", "yes", "no"] = "auto",
    seed: int = 0,
    resume: Literal["auto", "never"] = "auto",
    progress: bool = False,
) -> Trained:
    """Train a family on a data set and return the trained model.

    Args:
        source: a data set's name, a file or a folder.
        out: the run directory; ``runs/FAMILY-DATA-SEED`` if absent.
        model: settings of the family, over its preset.
        train: settings of ``TrainConfig``: ``steps``, or ``budget`` in seconds or as ``"10m"``.
        data: settings of ``DataOptions``.

    Raises:
        GenloomError: one line that says what is wrong and what to do.

    Example:
        >>> import genloom
        >>> trained = genloom.fit("baseline.gmm", "iris", out="runs/iris")  # doctest: +SKIP
    """
    config = fitting.FitConfig(
        family,
        str(source),
        model or {},
        _settings(TrainConfig, train).lasting(fitting.FIT_SECONDS),
        _settings(DataOptions, data),
        view,
        conditional,
        seed,
    )
    folder = Path(out) if out is not None else fitting.default_out(config)
    return Trained(fitting.fit(config, folder, resume=resume, progress=progress))


@checked
def load(folder: str | Path, **settings: Any) -> Trained:
    """Return the trained model of a run directory.

    Args:
        settings: of how the model draws and scores, in place of those that it was trained with, such as
            ``sampling_steps=10``.

    Raises:
        ConfigError: the family has no such settings, or its weights depend on them.
        RunError: it is not one, belongs to another version, or holds no finished model.
    """
    return Trained(open_run(folder).with_settings(settings))


@checked
def evaluate(
    folder: str | Path, *, limit: Annotated[int, Field(ge=evaluating.LEAST_ITEMS)] = evaluating.MAX_ITEMS
) -> dict[str, Figure]:
    """Measure a trained run on its held-out data; every figure carries its interval and fingerprint.

    Args:
        limit: most test items, and samples, to use.

    Raises:
        GenloomError: the run is not finished, or its data are gone or have changed.
    """
    return evaluating.evaluate_run(open_run(folder), limit=limit).figures


@checked
def compare(
    source: str | Path | Sequence[str | Path],
    *,
    families: Sequence[str] = (),
    out: str | Path | None = None,
    models: Mapping[str, Mapping[str, Any]] | None = None,
    train: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    conditional: Literal["auto", "yes", "no"] = "auto",
    seeds: Positive = 1,
    seed: int = 0,
    progress: bool = False,
) -> Results:
    """Train every suitable family at one budget and rank them, or compare finished runs.

    Args:
        source: a data set's name, a file or a folder; or a sequence of run directories.
        families: names, or ``["all"]``; one or two of each kind if empty.
        out: where the result is kept; ``runs/compare-DATA``, or ``runs/comparison`` of runs, if absent.
        models: settings by family.

    Returns:
        The results, as ``results.json`` in ``out`` has them; ``report.html`` lies beside it.
    """
    if isinstance(source, str | Path) and (Path(source) / "run.json").exists():
        source = [source]
    if not isinstance(source, str | Path):
        folder = Path(out or comparing.RUNS_OUT)
        return comparing.compare_runs([Path(f) for f in source], folder, say=_silent)
    config = comparing.CompareConfig(
        str(source),
        tuple(families),
        _settings(TrainConfig, train).lasting(comparing.DEFAULT_SECONDS),
        _settings(DataOptions, data),
        conditional,
        models or {},
        seeds,
        seed,
    )
    folder = Path(out or comparing.default_out(config.source))
    return comparing.compare(config, folder, progress=progress, say=_silent)


def _silent(text: str) -> None:
    """Say nothing."""


M = TypeVar("M", bound=BaseModel)


def _settings(kind: type[M], given: Mapping[str, Any] | None) -> M:
    try:
        return kind(**(given or {}))
    except ValidationError as error:
        raise ConfigError(complaint(error.errors())) from error
