"""The command `secateur`: reads its words, calls the library, prints what comes back.

Nothing heavy is imported before it is known what to do, so that --help answers at once.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secateur.report import Run
    from secateur.train.run import Settings

DATA_HELP = """\
The data function returns (train_loader, test_loader), or an object with these attributes and,
optionally, loss(output, target) -> scalar tensor and metric(output, target) -> number (defaults:
cross entropy and accuracy). A batch is a tuple (inputs..., target), or a mapping whose entry
"labels" is the target and whose other entries are the model's keyword inputs. The training loader
needs a length. The first row of the first test batch is the example on which FLOPs are counted.
The current folder is importable."""

AMOUNT_HELP = """\
Amounts: a share (flops=25% or flops=0.25), or an absolute number (flops=120M, params=1.5M,
bytes=2MiB, groups=60)."""

LAUNCH_HELP = """\
On several processes: torchrun --nproc-per-node 2 -m secateur train ..., or accelerate launch -m
secateur train ... Each takes its rows of every batch; steps and schedule stay the same."""

BUDGET_HELP = f"""\
{AMOUNT_HELP} Several, separated by commas or by repeating --budget, must all hold.
Several amounts of one measure (flops=50%,25%,10%) are a frontier, one network each, in one run."""

RUNTIMES = "torch (default), torch.compile, onnxruntime"

SWEEP_HELP = """\
Each of --budgets is a budget of its own, trained once with every seed; commas inside one join what
must hold at once. The same command again goes on with what is missing, from the checkpoints, and
may name more budgets and seeds. On a cluster, --out is a folder that all machines share."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the words after "secateur"; those of the process by default.

    Returns:
        The exit status: 0, 2 after an error, 128 + the signal after an interruption.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(words)
    try:
        _set_threads(options)
        return options.run(options, words) or 0
    except KeyboardInterrupt:
        print(f"secateur: interrupted{_resume_hint(options, words)}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if options.traceback:
            raise
        who = f"secateur: process {_rank()}" if _rank() else "secateur"
        print(f"{who}: error: {_told(error)}", file=sys.stderr)
        return 2


def _rank() -> int:
    """Which of a launcher's processes this is; 0 without a launcher."""
    return int(os.environ.get("RANK", 0))


def _told(error: Exception) -> str:
    """An error in words; what no one meant to raise also says its type and how to see more."""
    words = str(error) or type(error).__name__
    expected = (ValueError, RuntimeError, OSError, ImportError, FloatingPointError)
    if isinstance(error, expected) and str(error):
        return words
    return f"{type(error).__name__}: {words} (--traceback shows where)"


def _resume_hint(options: argparse.Namespace, words: list[str]) -> str:
    """The command that continues a run which has a checkpoint, on a line of its own."""
    if options.run is _sweep and (Path(options.out) / "sweep.json").exists():
        return f"\nto go on:  {shlex.join(['secateur', *words])}"
    if options.run is not _train or not (Path(options.out) / "checkpoint").exists():
        return ""
    more = [] if "--resume" in words else ["--resume"]
    return f"\nto go on:  {shlex.join(['secateur', *words, *more])}"


# -- words ----------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = argparse.ArgumentParser(
        prog="secateur",
        description="Train a network once and get it at exactly the size your hardware affords.",
    )
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    demo = _command(
        commands, "demo", _demo, "a small network on digits: dense and at 25%% of FLOPs"
    )
    demo.add_argument("--out", metavar="DIR", help="for all files (default: secateur-demo)")
    demo.add_argument("--report", metavar="FILE", help="default: report.html, or in --out if given")

    train = _command(commands, "train", _train, "train a model of your own to a budget")
    train.epilog = f"{BUDGET_HELP}\n\n{DATA_HELP}\n\n{LAUNCH_HELP}"
    _add_training(train)
    train.add_argument("--budget", required=True, action="append", metavar="WHAT=AMOUNT")
    train.add_argument("--seed", type=int, default=0)
    _add_device(train, None, "cpu, cuda, ... (default: what Accelerate finds)")
    train.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    train.add_argument(
        "--log",
        action="append",
        default=[],
        metavar="LOGGER",
        help="tensorboard (into OUT/tensorboard), wandb, mlflow, ... or MODULE:FACTORY of your own",
    )

    sweep = _command(commands, "sweep", _sweep, "train for every budget and seed, in parallel")
    sweep.allow_abbrev = False  # --budget would pass for --budgets, and they differ
    sweep.epilog = f"{SWEEP_HELP}\n\n{AMOUNT_HELP}\n\n{DATA_HELP}"
    _add_training(sweep)
    sweep.add_argument(
        "--budgets",
        required=True,
        action="extend",
        nargs="+",
        metavar="WHAT=AMOUNT",
        help="one run each: flops=50%% flops=25%%,params=1M",
    )
    sweep.add_argument("--seeds", default="0", metavar="N,N,...", help="such as 0,1,2 (default: 0)")
    sweep.add_argument(
        "--address", help="of a Ray cluster: auto, HOST:PORT (default: this machine)"
    )
    sweep.add_argument(
        "--cpus", type=int, default=1, help="cores and threads of a run (default: 1)"
    )
    sweep.add_argument(
        "--gpus", type=float, default=0, help="of a run (default: 0; 0.5 shares one)"
    )
    sweep.add_argument("--device", default="cpu", help="cpu (default), cuda, ...")

    inspect = _command(commands, "inspect", _inspect, "what can be removed, what can't, and why")
    _add_model(inspect, required=True)
    _add_example(inspect)
    _add_groups(inspect)

    measure = _command(commands, "measure", _measure, "parameters, FLOPs, bytes, latency, memory")
    _add_model(measure, required=False)
    measure.add_argument("--weights", metavar="FILE", help="a small network, from secateur.save")
    _add_example(measure)
    _add_device(measure)

    profile = _command(
        commands, "profile", _profile, "measure latency by widths: a table for --latency-table"
    )
    _add_model(profile, required=True)
    _add_example(profile)
    _add_groups(profile)
    _add_device(profile)
    profile.add_argument("--runtime", default="torch", help=RUNTIMES)
    profile.add_argument("--multiple-of", type=int, default=1, metavar="N", help="as in training")
    profile.add_argument("--out", required=True, metavar="FILE", help="such as phone.json")

    export = _command(commands, "export", _export, "write a network as ONNX, checked")
    _add_model(export, required=True)
    export.add_argument("--weights", metavar="FILE", help="a small network, from secateur.save")
    _add_example(export)
    export.add_argument("--out", required=True, metavar="FILE", help="such as small.onnx")

    compare = _command(commands, "compare", _compare, "two runs, or two saved networks, as ratios")
    compare.add_argument("a", metavar="A", help="a run's folder, or a .safetensors file")
    compare.add_argument("b", metavar="B")
    return top


def _command(
    commands: Any, name: str, run: Callable[..., int | None], words: str
) -> argparse.ArgumentParser:
    found = commands.add_parser(
        name,
        help=words,
        description=words.replace("%%", "%"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("--traceback", action="store_true", help="show where an error comes from")
    found.set_defaults(run=run)
    return found


def _add_model(command: argparse.ArgumentParser, *, required: bool) -> None:
    command.add_argument(
        "--model",
        required=required,
        metavar="MODULE:FACTORY",
        help="called without arguments, returns the full-size nn.Module",
    )


def _add_example(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--example",
        action="append",
        metavar="SHAPE",
        help="an input's shape: 1,3,32,32, or 1,16:int64; repeat for several inputs",
    )
    command.add_argument(
        "--data", metavar="MODULE:FUNCTION", help="instead: first row of test data"
    )


def _add_training(command: argparse.ArgumentParser) -> None:
    """What every run of `train` needs, but its budget and seed."""
    _add_model(command, required=True)
    command.add_argument("--data", required=True, metavar="MODULE:FUNCTION", help="see below")
    command.add_argument("--out", required=True, metavar="DIR", help="folder for all files")
    command.add_argument("--epochs", required=True, type=int)
    _add_groups(command)
    command.add_argument("--optimizer", default="sgd", help="sgd (default) or adamw")
    command.add_argument("--lr", type=float, help="default: 0.1 for sgd, 0.001 for adamw")
    command.add_argument(
        "--weight-decay", type=float, help="default: 0.0005 for sgd, 0.01 for adamw"
    )
    command.add_argument("--momentum", type=float, default=0.9, help="of sgd (default: 0.9)")
    command.add_argument(
        "--batch-size", type=int, help="handed to the data function as batch_size="
    )
    command.add_argument("--every", type=int, default=1, help="steps between proximal steps")
    command.add_argument(
        "--weights", default="auto", help="auto (default: curvature), layer or a number"
    )
    command.add_argument(
        "--metric", default="euclidean", help="euclidean (default), or optimizer: AdamW's own"
    )
    command.add_argument(
        "--freeze",
        type=float,
        help="share of the run after which groups are chosen (default: as suits the budget)",
    )
    command.add_argument(
        "--power",
        type=float,
        help="raise the pressure as this power of time (default: gradually, then a close)",
    )
    command.add_argument(
        "--at-least", type=int, default=1, help="groups that stay in every layer (default: 1)"
    )
    command.add_argument(
        "--multiple-of", type=int, default=1, metavar="N", help="widths in multiples, such as 8"
    )
    command.add_argument(
        "--per-layer", action="store_true", help="the same share of every layer's groups"
    )
    command.add_argument("--runtime", help=f"of a budget on latency: {RUNTIMES}")
    command.add_argument(
        "--latency-table", metavar="FILE", help="from secateur profile; by default measured here"
    )
    command.add_argument(
        "--precision", help="no, bf16 or fp16, of the forward pass (default: the launcher's, or no)"
    )
    command.add_argument(
        "--accumulate", type=int, default=1, metavar="N", help="batches of a step (default: 1)"
    )
    command.add_argument("--clip", type=float, metavar="NORM", help="of all gradients, at most")
    command.add_argument(
        "--distill",
        metavar="TEACHER",
        help="learn from it too: a file of weights, MODULE:FACTORY, or start for the (trained) "
        "model as it is at the beginning",
    )
    command.add_argument(
        "--distill-temperature", type=float, metavar="T", help="of its logits (default: 2)"
    )
    command.add_argument(
        "--distill-weight", type=float, metavar="SHARE", help="of the loss (default: 0.5)"
    )
    command.add_argument(
        "--checkpoint-every", default="5m", metavar="TIME|STEPS", help="30s, 5m (default), 500"
    )


def _add_groups(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--kind", default="filters", help="filters (default), neurons, or several: filters,neurons"
    )
    command.add_argument(
        "--ignore", nargs="+", default=[], metavar="NAME", help="modules that stay"
    )


def _add_device(
    command: argparse.ArgumentParser,
    default: str | None = "cpu",
    words: str = "cpu (default), cuda, ...",
) -> None:
    command.add_argument("--device", default=default, help=words)
    command.add_argument("--threads", type=int, help="of torch")


# -- commands -------------------------------------------------------------------------------------


def _demo(options: argparse.Namespace, _: list[str]) -> None:
    from secateur.commands.demo import demo
    from secateur.report import html

    folder = Path(options.out or "secateur-demo")
    default = folder / "report.html" if options.out else Path("report.html")
    with _watched() as watch:
        run = demo(folder, watch)
    report = html(run, options.report or default)
    _show(run)
    print(f"files in {folder}, report in {report}")


def _train(options: argparse.Namespace, words: list[str]) -> int:
    from secateur.train.loop import Interrupted
    from secateur.train.run import train

    settings = _settings(options, budget=tuple(options.budget), seed=options.seed)
    try:
        with _watched() as watch:
            run = train(
                settings,
                Path(options.out),
                resume=options.resume,
                device=options.device,
                checkpoint_every=options.checkpoint_every,
                log=options.log,
                watch=watch,
            )
    except Interrupted as stop:
        if not _rank():
            print(f"secateur: {stop}{_resume_hint(options, words)}", file=sys.stderr)
        return 128 + stop.number
    if run is not None:
        _show(run)
        print(f"files and report in {options.out}")
    return 0


def _sweep(options: argparse.Namespace, words: list[str]) -> int:
    from secateur.commands.sweep import Resources, SweepInterrupted, parse_seeds, sweep
    from secateur.report.sweep import SweepTrial, sweep_table

    def ended(trial: SweepTrial) -> None:
        print(trial, file=sys.stderr if trial.failure else sys.stdout, flush=True)

    try:
        with _watched() as watch:
            found = sweep(
                _settings(options, budget=(), seed=0),
                options.out,
                budgets=options.budgets,
                seeds=parse_seeds(options.seeds),
                address=options.address,
                resources=Resources(options.cpus, options.gpus, options.device),
                checkpoint_every=options.checkpoint_every,
                watch=watch,
                ended=ended,
            )
    except SweepInterrupted as stop:
        print(f"secateur: {stop}{_resume_hint(options, words)}", file=sys.stderr)
        return 128 + stop.number
    _print(sweep_table(found))
    print(f"runs, results.jsonl and report.html in {options.out}")
    if found.failed:
        count = f"{len(found.failed)} of {len(found.trials)} runs failed"
        where = "error.txt in a run's folder shows where"
        print(f"secateur: error: {count}; {where}{_resume_hint(options, words)}", file=sys.stderr)
    return 2 if found.failed else 0


def _inspect(options: argparse.Namespace, _: list[str]) -> None:
    from secateur.commands.inspect import inspect

    model = _model(options)
    with _watched() as watch:
        watch("tracing the model", 0, 0, "")
        tables = inspect(model, _example(options), options.kind, options.ignore)
    _print(*tables)


def _measure(options: argparse.Namespace, _: list[str]) -> None:
    if options.model is None:
        if options.weights is None:
            raise ValueError("say what to measure: --model MODULE:FACTORY, --weights FILE, or both")
        from secateur.commands.compare import contents

        numbers, size = contents(Path(options.weights))
        print(f"{numbers:,} parameters and buffers, {size:,} bytes (more with --model)")
        return
    from secateur.measurement import measure
    from secateur.train.data import to_device

    model = _model(options).to(options.device)
    example = to_device(_example(options), options.device)
    with _watched() as watch:
        watch("measuring", 0, 0, "")
        found = measure(model, example)
    print(found)


def _profile(options: argparse.Namespace, _: list[str]) -> None:
    from secateur.commands.profile import layer_table, make_table
    from secateur.train.data import to_device

    model = _model(options).to(options.device)
    with _watched() as watch:
        table = make_table(
            model,
            to_device(_example(options), options.device),
            Path(options.out),
            kinds=options.kind,
            ignore=options.ignore,
            runtime=options.runtime,
            threads=options.threads,
            multiple_of=options.multiple_of,
            watch=watch,
        )
    _print(layer_table(table))
    print(f"{options.out}: off by {table.error:.1%} on networks that it doesn't know")


def _export(options: argparse.Namespace, _: list[str]) -> None:
    from secateur.deploy import export

    model = _model(options)
    with _watched() as watch:
        watch("exporting to ONNX", 0, 0, "")
        path = export(model, _example(options), options.out)
    print(f"{path}: {path.stat().st_size:,} bytes, agrees with the network")


def _compare(options: argparse.Namespace, _: list[str]) -> None:
    from secateur.commands.compare import compare

    _print(compare(Path(options.a), Path(options.b)))


# -- what commands share --------------------------------------------------------------------------


def _settings(options: argparse.Namespace, *, budget: tuple[str, ...], seed: int) -> Settings:
    """The options that determine a run's result."""
    from secateur.train.run import Settings

    own = {"budget": budget, "seed": seed, "ignore": tuple(options.ignore)}
    names = [name for name in Settings.__dataclass_fields__ if name not in own]
    return Settings(**own, **{name: getattr(options, name) for name in names})


def _set_threads(options: argparse.Namespace) -> None:
    if getattr(options, "threads", None) is not None:
        import torch

        if options.threads < 1:
            raise ValueError(f"--threads {options.threads}: 1 or more")
        torch.set_num_threads(options.threads)


def _model(options: argparse.Namespace) -> Any:
    """The model of --model, cut and filled by --weights where given."""
    from secateur.deploy import load
    from secateur.train.spec import make_model

    model = make_model(options.model)
    weights = getattr(options, "weights", None)
    return model if weights is None else load(weights, model=model)


def _example(options: argparse.Namespace) -> Any:
    from secateur.train.data import Data
    from secateur.train.spec import make_data, parse_example

    if (options.example is None) == (options.data is None):
        raise ValueError(
            "say what the inputs look like: --example 1,3,32,32, or --data MODULE:NAME"
        )
    if options.data is not None:
        return Data.of(make_data(options.data)).example()
    return parse_example(options.example)


@contextmanager
def _watched() -> Iterator[Callable[[str, int, int, str], None]]:
    """A function that shows what is being done, as a bar on stderr where that is a terminal."""
    from secateur.report.progress import Watcher

    with Watcher() as watcher:
        yield watcher


def _show(run: Run) -> None:
    from secateur.report.tables import asked_table, checks_table, comparison_table, frontier_table

    _print(
        asked_table(run.asked),
        *([frontier_table(run.frontier, run.metric)] if run.frontier else []),
        comparison_table(run.networks, run.metric),
        checks_table(run.checks),
    )


def _print(*tables: Any) -> None:
    from secateur.utils.extras import require

    console = require("rich.console", extra="cli").Console()
    if not console.is_terminal:
        console.width = 120  # files and pipes have no width of their own
    for table in tables:
        console.print(table)


if __name__ == "__main__":
    sys.exit(main())
