"""`sotopia-env`: the package at the command line, thin over its Python API.

Results go to stdout, progress and complaints to stderr. Exit code 0 means that all went well, 1 that
something failed and one line on stderr says what, 2 that the command was not understood, 130 Ctrl-C.
Everything heavy is imported inside the command that needs it, so that `--help` is quick.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sotopia_env.errors import SotopiaEnvError
from sotopia_env.version import __version__

__all__ = ["app", "main"]


class _Group(TyperGroup):
    """Turns what goes wrong in a command into one line on stderr and an exit code."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        try:
            return super().invoke(ctx)
        except SotopiaEnvError as error:
            _complain(str(error))
            raise typer.Exit(1) from error
        except KeyboardInterrupt as error:
            _complain("interrupted")
            raise typer.Exit(130) from error
        except OSError as error:
            if error.errno == errno.EPIPE or error.filename is None:
                raise  # a closed pipe, as by `| head`, is handled by typer
            _complain(f"{error.filename!r}: {error.strerror}.")
            raise typer.Exit(1) from error


def _complain(message: str) -> None:
    from sotopia_env.cli.common import log

    log(f"error: {' '.join(message.split())}")


def _example(*lines: str) -> str:
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


app = typer.Typer(
    cls=_Group,
    name="sotopia-env",
    help="Social scenarios as environments: look at tasks, play, roll out, judge, show, train, evaluate.",
    epilog=_example("sotopia-env demo", "sotopia-env pi", "sotopia-env COMMAND --help"),
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
tasks_app = typer.Typer(
    help="Look at what can be played.",
    epilog=_example("sotopia-env tasks list", "sotopia-env tasks show outcome/bargain --seed 1"),
    rich_markup_mode=None,
    no_args_is_help=True,
)
app.add_typer(tasks_app, name="tasks")


def main() -> None:
    """The console script `sotopia-env`."""
    # A terminal or pipe that cannot take a character gets an escape instead of a traceback.
    for stream, errors in ((sys.stdout, "backslashreplace"), (sys.stdin, "surrogateescape")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)
    # So that --agent my_module:MyAgent finds my_module.py here; last, so that it shadows nothing.
    sys.path.append(os.getcwd())
    app(prog_name="sotopia-env")


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Social scenarios as environments: look at tasks, play, roll out, judge, show, train, evaluate."""


# --- options that several commands have -------------------------------------------------------------

TasksOption = Annotated[
    str,
    typer.Option(help="A pack (outcome, everyday, everyday-hard), pack/family, or the path of a JSONL file or folder."),
]
SplitOption = Annotated[
    str | None,
    typer.Option(help="train, validation or test. Default: train for outcome tasks, all of written ones."),
]
SeedOption = Annotated[int, typer.Option(help="Decides generated tasks, the episodes' seeds and the bootstrap.")]
RewardOption = Annotated[
    str, typer.Option(help="What of a verdict is the reward: a dimension, overall, or weights: goal=1,secret=0.5.")
]
MaxTurnsOption = Annotated[int, typer.Option(min=1, help="Turns after which a conversation is cut off.")]
TurnOrderOption = Annotated[str, typer.Option(help="round-robin, simultaneous or random.")]
BaseUrlOption = Annotated[
    str | None,
    typer.Option(help="Endpoint of openai/... models. Default: OPENAI_BASE_URL, else OpenAI's own."),
]
ConcurrencyOption = Annotated[int, typer.Option(min=1, help="How many episodes are under way at once.")]
OutputOption = Annotated[str | None, typer.Option(help="Write the episodes to this JSONL file as well.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, for programs.")]


# --- tasks ----------------------------------------------------------------------------------------


@tasks_app.command(
    "list",
    epilog=_example(
        "sotopia-env tasks list",
        "sotopia-env tasks list outcome --split test --limit 6 --seed 1",
        "sotopia-env tasks list everyday/conflict --json",
        "sotopia-env tasks list my_tasks.jsonl",
    ),
)
def tasks_list(
    tasks: Annotated[
        str | None, typer.Argument(metavar="[TASKS]", help="A pack, pack/family or path; none lists the packs.")
    ] = None,
    split: SplitOption = None,
    limit: Annotated[int | None, typer.Option(min=0, help="How many. Default: all; of generated ones 120.")] = None,
    seats: Annotated[int | None, typer.Option(min=2, help="Only tasks for so many agents.")] = None,
    seed: Annotated[int, typer.Option(help="Decides which tasks a generated pack makes.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """List the packs, or the tasks of one."""
    from sotopia_env.cli import tasking

    if tasks is None:
        tasking.list_packs(as_json)
    else:
        tasking.list_tasks(tasks, split=split, limit=limit, seed=seed, seats=seats, as_json=as_json)


@tasks_app.command(
    "show",
    epilog=_example(
        "sotopia-env tasks show outcome/divide/test/1/0",
        "sotopia-env tasks show outcome/bargain --split test --seed 1",
        "sotopia-env tasks show my-task --tasks my_tasks.jsonl --json",
    ),
)
def tasks_show(
    name: Annotated[str, typer.Argument(metavar="TASK", help="A task id; or a pack or family, for its first task.")],
    tasks: Annotated[str | None, typer.Option(help="Where the task is, if it is not built in: a path.")] = None,
    split: SplitOption = None,
    seed: Annotated[int, typer.Option(help="Decides which tasks a generated pack makes.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Show one task whole: the cast, each one's goal, and what each is told."""
    from sotopia_env.cli import tasking

    tasking.show_task(name, tasks=tasks, split=split, seed=seed, as_json=as_json)


# --- playing --------------------------------------------------------------------------------------


@app.command(
    epilog=_example(
        "sotopia-env play --tasks outcome/bargain --agent scripted/tough",
        "sotopia-env play --tasks everyday-hard --agent local/smollm2 --seat 1",
        "sotopia-env play --tasks everyday --agent openai/gpt-4o-mini --judge openai/gpt-4o --seed 3",
    ),
)
def play(
    tasks: TasksOption = "outcome",
    task: Annotated[str | None, typer.Option(help="The id of one task; without it the seed draws one.")] = None,
    agent: Annotated[
        list[str] | None,
        typer.Option(
            metavar="AGENT",
            help="Who plays the other seats: one for all, or one per seat in seat order. Default: scripted/fair.",
        ),
    ] = None,
    seat: Annotated[int, typer.Option(min=0, help="Your seat.")] = 0,
    split: SplitOption = None,
    judge: Annotated[
        str | None,
        typer.Option(
            help="outcome, openai/<model>, local/<model>, module:attribute, or none. Default: outcome where it applies."
        ),
    ] = None,
    reward: RewardOption = "goal",
    seed: Annotated[int | None, typer.Option(help="Draws the task and everything random. Default: a new one.")] = None,
    max_turns: MaxTurnsOption = 20,
    turn_order: TurnOrderOption = "round-robin",
    output: OutputOption = None,
    base_url: BaseUrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Play one conversation yourself, against any agent. Ctrl-D leaves it."""
    from sotopia_env.cli import playing

    code = playing.run(
        tasks=tasks,
        task_id=task,
        agents=agent or ["scripted/fair"],
        seat=seat,
        split=split,
        judge=judge,
        reward=reward,
        seed=seed,
        max_turns=max_turns,
        turn_order=turn_order,
        output=output,
        base_url=base_url,
        as_json=as_json,
    )
    raise typer.Exit(code)


@app.command(
    epilog=_example(
        "sotopia-env rollout --tasks outcome --split test --limit 50 --agent scripted/fair \\",
        "    --agent scripted/tough --judge outcome --store runs.db --seed 1",
        "sotopia-env rollout --tasks everyday --agent openai/gpt-4o-mini --agent openai/gpt-4o-mini \\",
        "    --judge openai/gpt-4o --reward overall --store runs.db",
        "sotopia-env rollout --tasks outcome/committee --agent random --agent scripted/fair --agent scripted/fair",
    ),
)
def rollout(
    agent: Annotated[
        list[str],
        typer.Option(
            metavar="AGENT",
            help="Once per seat, in seat order: scripted/<strategy>, random, openai/<model>, local/<model>, "
            "module:attribute.",
        ),
    ],
    tasks: TasksOption = "outcome",
    split: SplitOption = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="How many tasks. Default: all; of generated ones 120.")
    ] = None,
    judge: Annotated[
        str, typer.Option(help="outcome, openai/<model>, local/<model>, module:attribute, or none.")
    ] = "outcome",
    reward: RewardOption = "goal",
    seed: SeedOption = 0,
    repeats: Annotated[int, typer.Option(min=1, help="How often each task is played.")] = 1,
    concurrency: ConcurrencyOption = 64,
    max_turns: MaxTurnsOption = 20,
    turn_order: TurnOrderOption = "round-robin",
    store: Annotated[
        str | None, typer.Option(help="Keep episodes in this file or SQLAlchemy URL, and skip what it has already.")
    ] = None,
    output: OutputOption = None,
    base_url: BaseUrlOption = None,
    judge_base_url: Annotated[
        str | None, typer.Option(help="Endpoint of an openai/... judge, if it is another one.")
    ] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Play many episodes, judge them, and say what they came to. Run it again to go on where it stopped."""
    from sotopia_env.cli import rolling

    code = rolling.run(
        tasks=tasks,
        agents=agent,
        split=split,
        limit=limit,
        judge=judge,
        reward=reward,
        seed=seed,
        repeats=repeats,
        concurrency=concurrency,
        max_turns=max_turns,
        turn_order=turn_order,
        store=store,
        output=output,
        base_url=base_url,
        judge_base_url=judge_base_url,
        quiet=quiet,
        as_json=as_json,
    )
    raise typer.Exit(code)


# --- stored episodes ------------------------------------------------------------------------------

SourceArgument = Annotated[str, typer.Argument(metavar="SOURCE", help="An episode store or a JSONL file of episodes.")]


@app.command(
    epilog=_example(
        "sotopia-env judge runs.db --judge openai/gpt-4o",
        "sotopia-env judge runs.db --judge local/smollm2 --limit 10 --json",
        "sotopia-env judge episodes.jsonl --judge outcome --output judged.jsonl",
    ),
)
def judge(
    source: SourceArgument,
    judge: Annotated[str, typer.Option(help="outcome, openai/<model>, local/<model>, or module:attribute.")],
    reward: Annotated[
        str, typer.Option(help="The reward of episodes that have none yet; those that have one keep it.")
    ] = "goal",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many episodes.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Also where this judge gave a verdict before.")] = False,
    concurrency: ConcurrencyOption = 16,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    output: OutputOption = None,
    base_url: BaseUrlOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Score stored episodes again with another judge; a store keeps the verdicts. Shows them side by side."""
    from sotopia_env.cli import judging

    code = judging.run(
        source=source,
        judge=judge,
        reward=reward,
        limit=limit,
        again=again,
        concurrency=concurrency,
        seed=seed,
        output=output,
        base_url=base_url,
        quiet=quiet,
        as_json=as_json,
    )
    raise typer.Exit(code)


@app.command(
    epilog=_example(
        "sotopia-env show runs.db",
        "sotopia-env show runs.db 3f9a --private",
        "sotopia-env show episodes.jsonl --list --status failed",
    ),
)
def show(
    source: SourceArgument,
    episode: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="The beginning of an episode's id; without it the latest.")
    ] = None,
    as_list: Annotated[bool, typer.Option("--list", "-l", help="A row per episode instead.")] = False,
    status: Annotated[str | None, typer.Option(help="With --list: complete, failed or judge_failed.")] = None,
    task: Annotated[str | None, typer.Option(help="With --list: only episodes of this task.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Also what only one seat knows.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show a stored episode: scene, transcript, and every verdict with its reasons."""
    from sotopia_env.cli import showing

    showing.run(
        source=source,
        episode_id=episode,
        as_list=as_list,
        status=status,
        task=task,
        private=private,
        as_json=as_json,
    )


# --- policies -------------------------------------------------------------------------------------


@app.command(
    epilog=_example(
        "sotopia-env evaluate --policy fair=scripted/fair --tasks outcome/bargain --tasks outcome/divide --n 100",
        "sotopia-env evaluate --policy base=hf/runs/base --policy bc=hf/runs/bc --split both --output evaluation.json",
        "sotopia-env evaluate --policy mine=my_agents:Mine --partner scripted/fair --partner scripted/tough \\",
        "    --partner scripted/stubborn --met scripted/soft --store runs.db",
    )
)
def evaluate(
    policy: Annotated[
        list[str],
        typer.Option(metavar="[LABEL=]SPEC", help="Once per policy. Differences are taken to the first."),
    ],
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASKS", help="A pack, pack/family or path; more than one share --n. Default: outcome/bargain."
        ),
    ] = None,
    n: Annotated[int, typer.Option(min=1, help="How many tasks of each split.")] = 100,
    split: Annotated[
        str | None,
        typer.Option(
            help="validation (wordings of training, new numbers and people), test (new wordings too), both, or train. "
            "Default: validation for outcome tasks, all of written ones."
        ),
    ] = None,
    partner: Annotated[
        list[str] | None,
        typer.Option(
            metavar="AGENT",
            help="Who sits in the other seats, once per partner. Default: scripted/stubborn, scripted/deceptive and "
            "scripted/tough.",
        ),
    ] = None,
    met: Annotated[
        list[str] | None, typer.Option(metavar="AGENT", help="Who was met in training: refused as a partner.")
    ] = None,
    min_partners: Annotated[int, typer.Option(min=1, help="Fewer partners are refused.")] = 3,
    references: Annotated[
        bool, typer.Option(help="Also play the expert and the trivial policies, for comparison.")
    ] = True,
    judge: Annotated[
        str, typer.Option(help="outcome, openai/<model>, local/<model>, or module:attribute.")
    ] = "outcome",
    reward: RewardOption = "goal",
    repeats: Annotated[int, typer.Option(min=1, help="How often each task is played.")] = 1,
    seed: Annotated[int, typer.Option(help="Decides generated tasks and the episodes' seeds.")] = 0,
    concurrency: ConcurrencyOption = 64,
    max_turns: MaxTurnsOption = 20,
    turn_order: TurnOrderOption = "round-robin",
    store: Annotated[
        str | None, typer.Option(help="Keep episodes in this file or SQLAlchemy URL, and skip what it has already.")
    ] = None,
    output: Annotated[str | None, typer.Option(help="Write the evaluation to this JSON file as well.")] = None,
    base_url: BaseUrlOption = None,
    judge_base_url: Annotated[
        str | None, typer.Option(help="Endpoint of an openai/... judge, if it is another one.")
    ] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Play policies against held-out partners from every seat, and compare them task by task."""
    from sotopia_env.cli import evaluating

    code = evaluating.run(
        policies=policy,
        tasks=tasks or ["outcome/bargain"],
        n=n,
        split=split,
        partners=partner or [],
        met=met or [],
        min_partners=min_partners,
        references=references,
        judge=judge,
        reward=reward,
        repeats=repeats,
        seed=seed,
        concurrency=concurrency,
        max_turns=max_turns,
        turn_order=turn_order,
        store=store,
        output=output,
        base_url=base_url,
        judge_base_url=judge_base_url,
        quiet=quiet,
        as_json=as_json,
    )
    raise typer.Exit(code)


@app.command(
    epilog=_example(
        "sotopia-env report runs/quick",
        "sotopia-env report runs/quick --output quick.html",
        "sotopia-env report runs/quick --json",
    ),
)
def report(
    folder: Annotated[str, typer.Argument(metavar="RUN_FOLDER", help="The folder of a run, finished or not.")],
    output: Annotated[
        str | None,
        typer.Option(help="Where the page goes; its JSON goes beside it. Default: report.html in the run folder."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write one HTML page on a run, and report.json: policies, curves, filters, samples, settings."""
    from sotopia_env.cli import reporting

    reporting.run(folder=folder, output=output, as_json=as_json)


@app.command(
    epilog=_example(
        "sotopia-env pi --preset quick",
        "sotopia-env pi --preset quick --budget 30m --control --seed 1",
        "sotopia-env pi --preset paper --tasks outcome --judge outcome --expert scripted/expert --dry-run",
        "sotopia-env pi --preset laptop --model hf-folder --rounds 2 --set bc.training.epochs=2 --run runs/mine",
    )
)
def pi(
    preset: Annotated[str, typer.Option(help="quick, laptop, paper, or the path of a .toml file.")] = "quick",
    run: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Where everything goes; what is there and fits is not done again. Default: runs/<preset>-<seed>.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides tasks, episodes and training.")] = 0,
    model: Annotated[
        str | None, typer.Option(help="The base: tiny, smollm2, a hub id, or the folder of a model.")
    ] = None,
    expert: Annotated[str | None, typer.Option(metavar="AGENT", help="Whose episodes are cloned.")] = None,
    judge: Annotated[
        str | None, typer.Option(help="Who scores: outcome, openai/<model>, local/<model>, or module:attribute.")
    ] = None,
    partner: Annotated[
        list[str] | None,
        typer.Option(metavar="AGENT", help="A held-out partner of the evaluation, once per partner; at least three."),
    ] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option(metavar="TASKS", help="A pack, pack/family or path; more than one for families of one pack."),
    ] = None,
    sr_partner: Annotated[
        str | None,
        typer.Option(help="Whom self-reinforcement plays: self (as in the paper) or the preset's pool of partners."),
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds of self-reinforcement.")] = None,
    control: Annotated[
        bool | None,
        typer.Option(
            "--control/--no-control", help="Also train BC on as many steps with fresh expert rows, for comparison."
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Time to plan for, such as 30m or 1h: numbers of tasks grow or shrink."),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Change any setting of the preset: --set sr.repeats=5."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print episodes, tokens, cost and time by stage, and start nothing.")
    ] = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Expert episodes, behavior cloning, self-reinforcement, evaluation, report. Run it again to go on."""
    from sotopia_env.cli import learning

    code = learning.run(
        preset=preset,
        folder=run,
        seed=seed,
        changes={
            "base.model": model,
            "expert.agent": expert,
            "judge.agent": judge,
            "evaluation.partners": partner,
            "sr.partner": sr_partner,
            "sr.rounds": rounds,
            "sr.control": control,
        },
        tasks=tasks or [],
        budget=budget,
        settings=setting or [],
        dry_run=dry_run,
        quiet=quiet,
        as_json=as_json,
    )
    raise typer.Exit(code)


@app.command(epilog=_example("sotopia-env demo", "sotopia-env demo --seed 7 --json"))
def demo(
    seed: SeedOption = 1,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Watch two scripted agents deal, then compare some pairs on 50 test tasks. No model, no key, no network."""
    from sotopia_env.cli import demonstration

    demonstration.run(seed=seed, quiet=quiet, as_json=as_json)
