"""Loggers: what is told to them arrives, once, also where a run was interrupted."""

import json
from pathlib import Path

import pytest
from accelerate import tracking
from accelerate.state import AcceleratorState, PartialState

from secateur.train.loggers import JsonLines, Log, Logger, Tracker, make_loggers

RECORDS = [
    {"step": 1, "loss": 2.0, "kept": 8, "spent": {"flops": 1.0}, "widths": {"0": 8}},
    {"step": 2, "loss": 1.0, "kept": 6, "spent": {"flops": 0.7}, "widths": {"0": 6}},
    {"step": 2, "warning": "step 2: look"},
    {"step": 2, "epoch": 1, "held_out_loss": 0.5},
]


@pytest.fixture(autouse=True)
def anew() -> None:
    """Whatever other tests of this process left in Accelerate."""
    AcceleratorState._reset_state(reset_partial_state=True)


class Memory:
    """A logger as a user writes one."""

    def __init__(self) -> None:
        self.seen: list = []

    def log_hyperparams(self, params) -> None:
        self.seen.append(("start", dict(params)))

    def log_metrics(self, metrics, step) -> None:
        self.seen.append((step, dict(metrics)))

    def finalize(self, status) -> None:
        self.seen.append(("end", status))


class Kept(Memory):
    """One whose memory outlives the command that made it."""

    seen: list = []  # noqa: RUF012

    def __init__(self) -> None:
        self.seen.clear()


class Half:
    def log_metrics(self, metrics, step) -> None: ...


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    tags = found.Tags()["scalars"]
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in tags}


def texts(folder: Path) -> list[str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    tags = found.Tags()["tensors"]
    return [e.tensor_proto.string_val[0].decode() for tag in tags for e in found.Tensors(tag)]


def test_a_user_s_logger_gets_flat_numbers_and_a_warning_as_one():
    logger = Memory()
    with Log([logger], {"lr": 0.1}) as log:
        for record in RECORDS:
            log(record)
    assert isinstance(logger, Logger)
    assert logger.seen == [
        ("start", {"lr": 0.1}),
        (1, {"loss": 2.0, "kept": 8, "spent/flops": 1.0, "widths/0": 8}),
        (2, {"loss": 1.0, "kept": 6, "spent/flops": 0.7, "widths/0": 6}),
        (2, {"warning": 1.0}),
        (2, {"epoch": 1, "held_out_loss": 0.5}),
        ("end", "success"),
    ]


def test_json_lines_are_there_before_the_run_is_over(tmp_path):
    path = tmp_path / "new" / "metrics.jsonl"
    with pytest.raises(RuntimeError), Log([JsonLines(path)]) as log:
        log(RECORDS[0])
        assert lines(path)[0]["spent/flops"] == 1.0
        raise RuntimeError
    assert [line["step"] for line in lines(path)] == [1]


def test_a_run_that_goes_on_leaves_the_lines_of_an_uninterrupted_one(tmp_path):
    whole, parts = tmp_path / "whole.jsonl", tmp_path / "parts.jsonl"
    with Log([JsonLines(whole)]) as log:
        for record in RECORDS:
            log(record)
    with Log([JsonLines(parts)]) as log:
        for record in RECORDS[:3]:
            log(record)
    with Log([JsonLines(parts)], history=RECORDS[:1]) as log:  # the checkpoint is older
        for record in RECORDS[1:]:
            log(record)
    assert parts.read_text() == whole.read_text()
    assert lines(whole)[2] == {"step": 2, "warning": "step 2: look"}


def test_others_are_told_only_what_is_new():
    logger = Memory()
    with Log([logger], history=RECORDS[:1]) as log:
        log(RECORDS[1])
    assert [step for step, _ in logger.seen] == ["start", 2, "end"]


def test_a_run_that_raises_has_failed():
    logger = Memory()
    with pytest.raises(KeyError), Log([logger]):
        raise KeyError
    assert logger.seen[-1] == ("end", "failed")


class Raises(Memory):
    def __init__(self, *methods: str) -> None:
        super().__init__()
        for name in methods:
            setattr(self, name, self._raise)

    def _raise(self, *_) -> None:
        raise ConnectionError("the service is away")


@pytest.mark.parametrize("method", ["log_hyperparams", "log_metrics", "log_text", "finalize"])
def test_a_logger_that_raises_ends_no_run(method, tmp_path):
    """It is named in one warning; it and the others are told what follows."""
    first, after, path = Raises(method), Memory(), tmp_path / "metrics.jsonl"
    with pytest.warns(UserWarning) as caught, Log([first, after, JsonLines(path)]) as log:
        for record in RECORDS:
            log(record)
    assert [str(warning.message) for warning in caught] == [
        "the logger Raises raised ConnectionError: the service is away. The run goes on and tells "
        "it what follows; further errors of it are not shown"
    ]
    assert len(after.seen) == 6 and len(lines(path)) == 4
    missing = {"log_metrics": 3 + (not hasattr(first, "log_text"))}.get(method, 1)
    assert len(first.seen) == 6 - missing


def test_a_stop_of_the_run_is_no_error_of_a_logger():
    class Stops(Memory):
        def log_metrics(self, metrics, step) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Log([Stops()]) as log:
        log(RECORDS[0])


def test_tensorboard_shows_every_curve_once_also_after_an_interruption(tmp_path):
    with Log([Tracker("tensorboard", tmp_path)], {"lr": 0.1}) as log:
        log({"step": 1, "loss": 9.0})  # of a run that left no checkpoint
        log({"step": 7, "loss": 9.0})
    with Log([Tracker("tensorboard", tmp_path)], {"lr": 0.1}, RECORDS[:1]) as log:
        for record in RECORDS[1:]:
            log(record)
    folder = tmp_path / "tensorboard"
    found = curves(folder)
    assert found["loss"] == [(1, 2.0), (2, 1.0)]
    assert found["spent/flops"] == [(1, 1.0), (2, pytest.approx(0.7))]
    assert found["widths/0"] == [(1, 8.0), (2, 6.0)]
    assert found["held_out_loss"] == [(2, 0.5)]
    assert any("look" in words for words in texts(folder))
    assert any("| lr | 0.1 |" in words for words in texts(folder))
    assert not PartialState._shared_state  # Accelerate is as it was


def test_the_loggers_of_lightning_fit(tmp_path):
    loggers = pytest.importorskip("lightning.pytorch.loggers")
    with Log([loggers.CSVLogger(tmp_path, name="", version="")], {"lr": 0.1}) as log:
        for record in RECORDS:
            log(record)
    text = (tmp_path / "metrics.csv").read_text()
    head, *rows = [line.split(",") for line in text.splitlines()]
    column = head.index("spent/flops")
    assert [row[column] for row in rows if row[column]] == ["1.0", "0.7"]


def test_what_lacks_a_method_is_refused():
    with pytest.raises(TypeError, match="this Half lacks log_hyperparams, finalize"):
        Log([Half()])  # pyright: ignore[reportArgumentType]


def test_loggers_are_named(tmp_path):
    first, second = make_loggers(["tensorboard", f"{__name__}:Memory"], tmp_path)
    assert isinstance(first, Tracker)
    assert type(second).__name__ == "Memory"
    with pytest.raises(ValueError, match=r"--log none: write .*tensorboard.*, or MODULE:FACTORY"):
        make_loggers(["none"], tmp_path)
    with pytest.raises(TypeError, match="lacks log_hyperparams, finalize"):
        make_loggers([f"{__name__}:Half"], tmp_path)


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_named(name, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "_available_trackers", [])
    with pytest.raises(ImportError, match=f"pip install {name}"):
        Tracker(name, tmp_path)


class Service(tracking.GeneralTracker):
    """A tracker of a service, as Accelerate has them."""

    name, requires_logging_directory = "service", False
    seen: list = []  # noqa: RUF012

    def __init__(self, run_name: str) -> None:
        super().__init__()
        self.run_name = run_name

    @property
    def tracker(self):
        return self

    @tracking.on_main_process
    def start(self):
        self.seen.append(("start", self.run_name))

    @tracking.on_main_process
    def store_init_configuration(self, values):
        self.seen.append(values)

    @tracking.on_main_process
    def log(self, values, step=None, **kwargs):
        self.seen.append((step, values))

    @tracking.on_main_process
    def finish(self):
        self.seen.append("end")


def test_a_tracker_of_accelerate_is_told_what_is_new(tmp_path, monkeypatch):
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "service", Service)
    monkeypatch.setattr(tracking, "_available_trackers", ["service"])
    (logger,) = make_loggers(["service"], tmp_path)
    with Log([logger], {"lr": 0.1, "ignore": ("head",), "clip": None}, RECORDS[:1]) as log:
        for record in RECORDS[1:3]:
            log(record)
    assert Service.seen == [
        ("start", "secateur"),
        {"lr": 0.1, "ignore": "('head',)", "clip": "None"},
        (2, {"loss": 1.0, "kept": 6, "spent/flops": 0.7, "widths/0": 6}),
        (2, {"warning": 1.0}),
        "end",
    ]
    assert not PartialState._shared_state
