"""Where a run's numbers go while it trains: JSON lines, trackers, any logger of three methods.

In: the records of a training loop. Out: lines and curves, interrupted or not the same.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

from secateur.train.spec import called
from secateur.utils.extras import require
from secateur.utils.json import to_json

METHODS = ("log_hyperparams", "log_metrics", "finalize")


@runtime_checkable
class Logger(Protocol):
    """What a training loop tells to: three methods, named as in Lightning, whose loggers all fit.

    A logger with an attribute `rewrites` that is true is told everything from the beginning when an
    interrupted run goes on; others are told what is new. One with a method `log_text(words, step)`
    gets warnings as words; others see the number `warning`.

    Example:
        >>> class Printer:
        ...     def log_hyperparams(self, params): print(dict(params))
        ...     def log_metrics(self, metrics, step): print(step, dict(metrics))
        ...     def finalize(self, status): print(status)
        >>> with Log([Printer()], {"lr": 0.1}) as log:
        ...     log({"step": 1, "loss": 2.0, "spent": {"flops": 0.5}})
        {'lr': 0.1}
        1 {'loss': 2.0, 'spent/flops': 0.5}
        success
    """

    def log_hyperparams(self, params: Any) -> Any:
        """A run begins, or goes on; params are its settings, name -> value."""

    def log_metrics(self, metrics: Any, step: Any) -> Any:
        """Numbers by name, after so many steps of the optimizer."""

    def finalize(self, status: str) -> Any:
        """The run is over: "success", or "failed" where it was stopped or raised."""


class JsonLines:
    """A file with one JSON object a record: {"step": 3, "loss": 0.7, "spent/flops": 0.5, ...}.

    A line is in the file as soon as it is logged.

    Args:
        path: such as "metrics.jsonl"; an older file is replaced when a run begins.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with Log([JsonLines(f"{folder}/metrics.jsonl")]) as log:
        ...         log({"step": 1, "loss": 2.0})
        ...     Path(folder, "metrics.jsonl").read_text()
        '{"step": 1, "loss": 2.0}\\n'
    """

    rewrites = True

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def log_hyperparams(self, params: Mapping[str, Any]) -> None:
        """Begin an empty file; settings are not kept here."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(b"")

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Add a line."""
        self._add({"step": step, **metrics})

    def log_text(self, words: str, step: int) -> None:
        """Add a line with a warning."""
        self._add({"step": step, "warning": words})

    def finalize(self, status: str) -> None:
        """Nothing is left to be written."""

    def _add(self, record: Mapping[str, Any]) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(to_json(record) + "\n")


class Tracker:
    """One of Accelerate's trackers: TensorBoard, Weights and Biases, MLflow, Comet, Aim, ...

    Trackers of a service are set up as their documentation says (an account, a key), and get the
    project "secateur". TensorBoard's curves are those of an uninterrupted run.

    Args:
        name: as Accelerate calls it, such as "tensorboard" or "wandb".
        folder: of the run; files of the tracker go into its folder of that name.

    Raises:
        ImportError: Accelerate or the tracker's package is missing.
        ValueError: there is no such tracker.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with Log([Tracker("tensorboard", folder)], {"lr": 0.1}) as log:
        ...         log({"step": 1, "loss": 2.0})
        ...     [path.name.split(".")[0] for path in Path(folder, "tensorboard").iterdir()]
        ['events']
    """

    def __init__(self, name: str, folder: str | os.PathLike[str]) -> None:
        tracking = require("accelerate.tracking", extra="cli")
        kinds = tracking.LOGGER_TYPE_TO_CLASS
        if name not in kinds:
            raise ValueError(
                f"--log {name}: write {', '.join(sorted(kinds))}, or MODULE:FACTORY of your own"
            )
        if name not in map(str, tracking.get_available_trackers()):
            raise ImportError(f"logging to {name} needs its package: pip install {name}")
        self._kind, self._folder = kinds[name], Path(folder)
        self.rewrites = name == "tensorboard"  # which shows points twice otherwise
        self._tracker: Any = None
        self._state: Any = None

    def log_hyperparams(self, params: Mapping[str, Any]) -> None:
        """Begin; what TensorBoard's older files of the folder show is not shown any more."""
        state = require("accelerate.state", extra="cli").PartialState
        if not state._shared_state:  # outside of Accelerate, whose trackers ask which process it is
            self._state = state(cpu=True)
        writes, more = self._kind.requires_logging_directory, {"purge_step": 0}
        place = (self._kind.name, self._folder) if writes else ("secateur",)
        self._tracker = self._kind(*place, **(more if self.rewrites else {}))
        self._tracker.start()
        plain = {n: v if type(v) in (int, float, str, bool) else str(v) for n, v in params.items()}
        if not self.rewrites:
            self._tracker.store_init_configuration(plain)
        elif plain:  # as words: its own table of settings makes a folder a start
            rows = "".join(f"| {name} | {value} |\n" for name, value in plain.items())
            self._tracker.log({"settings": f"| setting | value |\n|---|---|\n{rows}"}, 0)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Add a point to each curve."""
        self._tracker.log(dict(metrics), step)

    def log_text(self, words: str, step: int) -> None:
        """Add a warning: its words where the tracker takes them, or a point."""
        self._tracker.log({"warning": words if self.rewrites else 1.0}, step)

    def finalize(self, status: str) -> None:
        """Write what is left, and close."""
        if self._tracker is not None:
            self._tracker.finish()
        if self._state is not None:
            self._state._reset_state()


class Log:
    """Passes the records of a run on to its loggers; a context, at whose end they are finalized.

    What a logger raises ends no run: the first error of each is a warning, and it is told on.

    Args:
        loggers: see `Logger`.
        settings: of the run.
        history: its records so far, where it goes on.

    Raises:
        TypeError: something is not a logger.

    Warns:
        UserWarning: a logger has raised, once each, by name.
    """

    def __init__(
        self,
        loggers: Sequence[Logger],
        settings: Mapping[str, Any] | None = None,
        history: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        for logger in loggers:
            check(logger)
        self._loggers, self._settings, self._history = tuple(loggers), settings or {}, history
        self._failed: set[int] = set()

    def __enter__(self) -> Log:
        for logger in self._loggers:
            self._guarded(logger, _begin, self._settings, self._history)
        return self

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Tell all of them one record: "step", and numbers, or mappings of numbers, by name."""
        for logger in self._loggers:
            self._guarded(logger, _tell, record)

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        status = "success" if kind is None else "failed"
        for logger in self._loggers:
            self._guarded(logger, _end, status)

    def _guarded(self, logger: Any, call: Callable[..., Any], *given: Any) -> None:
        try:
            call(logger, *given)
        except Exception as error:  # a full disk, a service that is away, an error of the user's
            if id(logger) not in self._failed:
                self._failed.add(id(logger))
                warnings.warn(
                    f"the logger {type(logger).__qualname__} raised {type(error).__name__}: "
                    f"{error}. The run goes on and tells it what follows;"
                    " further errors of it are not shown",
                    stacklevel=3,
                )


def _begin(logger: Any, settings: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> None:
    logger.log_hyperparams(settings)
    if getattr(logger, "rewrites", False):
        for record in history:
            _tell(logger, record)


def _end(logger: Any, status: str) -> None:
    logger.finalize(status)


def _tell(logger: Any, record: Mapping[str, Any]) -> None:
    step, words = record["step"], record.get("warning")
    if words is None:
        logger.log_metrics(dict(flat(record)), step)
    elif hasattr(logger, "log_text"):
        logger.log_text(words, step)
    else:
        logger.log_metrics({"warning": 1.0}, step)


def flat(record: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a record but its step, each by one name.

    Example:
        >>> dict(flat({"step": 1, "loss": 2.0, "spent": {"flops": 0.5}}))
        {'loss': 2.0, 'spent/flops': 0.5}
    """
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{above}{name}/")
        elif above or name != "step":
            yield above + name, value


def check(logger: Any) -> None:
    """Refuse what is no logger.

    Raises:
        TypeError: a method is missing.
    """
    missing = [name for name in METHODS if not callable(getattr(logger, name, None))]
    if missing:
        raise TypeError(
            f"a logger has the methods {', '.join(METHODS)}; this {type(logger).__name__} lacks "
            f"{', '.join(missing)}"
        )


def make_loggers(words: Sequence[str], folder: Path) -> tuple[Logger, ...]:
    """The loggers that --log names.

    Args:
        words: names of trackers, such as "tensorboard" (see `Tracker`), or MODULE:FACTORY, which is
            called without arguments.
        folder: of the run.

    Raises:
        ValueError: another word, or a factory that failed.
        TypeError: a factory returned something that is not a logger.
        ImportError: the package of a tracker is missing.
    """
    found: list[Any] = []
    for word in dict.fromkeys(words):
        found.append(called(word, "--log") if ":" in word else Tracker(word, folder))
        check(found[-1])
    return tuple(found)
