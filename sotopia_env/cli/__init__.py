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


def _dry_run(context: typer.Context, wanted: bool) -> bool:
    """Nobody is asked in a dry run, so no model needs a key."""
    if wanted:
        from sotopia_env.models import keyless

        context.with_resource(keyless())
    return wanted


# --- options that several commands have -------------------------------------------------------------

TasksOption = Annotated[
    str,
    typer.Option(
        help="A pack (outcome, everyday, everyday-hard, safety), pack/family, or the path of a JSONL file or folder."
    ),
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
MaxTokensTotalOption = Annotated[
    int | None,
    typer.Option(min=1, help="Stop before the model calls of this command take more tokens, prompts included."),
]
MaxCostOption = Annotated[
    float | None, typer.Option(help="Stop before they cost more US dollars; needs --price of every hosted model.")
]
PriceOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="MODEL=PROMPT,COMPLETION",
        help="US dollars per million tokens, once per model: openai/gpt-4o=2.5,10.",
    ),
]
DimensionsOption = Annotated[
    list[str] | None,
    typer.Option(help="Ask a model for this scale only, once per scale: quicker and cheaper than all seven."),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", callback=_dry_run, help="Print calls, tokens and cost, and start nothing.")
]
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
    max_tokens_total: MaxTokensTotalOption = None,
    max_cost: MaxCostOption = None,
    price: PriceOption = None,
    dry_run: DryRunOption = False,
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
        max_tokens_total=max_tokens_total,
        max_cost=max_cost,
        prices=price or [],
        dry_run=dry_run,
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
    dimension: DimensionsOption = None,
    reward: Annotated[
        str | None,
        typer.Option(
            help="The reward of episodes that have none yet; those that have one keep it. Default: the one "
            "--dimension, else goal."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many episodes.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Also where this judge gave a verdict before.")] = False,
    concurrency: ConcurrencyOption = 16,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    output: OutputOption = None,
    base_url: BaseUrlOption = None,
    max_tokens_total: MaxTokensTotalOption = None,
    max_cost: MaxCostOption = None,
    price: PriceOption = None,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Score stored episodes again with another judge; a store keeps the verdicts. Shows them side by side."""
    from sotopia_env.cli import judging

    code = judging.run(
        source=source,
        judge=judge,
        dimensions=dimension or [],
        reward=reward,
        limit=limit,
        again=again,
        concurrency=concurrency,
        seed=seed,
        output=output,
        base_url=base_url,
        max_tokens_total=max_tokens_total,
        max_cost=max_cost,
        prices=price or [],
        dry_run=dry_run,
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


@app.command(
    "import",
    epilog=_example(
        "sotopia-env import sotopia-data --out sotopia",
        "sotopia-env import ~/.sotopia/data redis-dump.json sotopia_pi_episodes.jsonl --out sotopia --store runs.db",
        "sotopia-env import episodes.jsonl --strict --problems problems.jsonl",
    ),
)
def import_(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH...", help="Files, and folders, which are searched. What they hold is recognised."),
    ],
    out: Annotated[
        str | None,
        typer.Option(
            help="The new folder to write: tasks.jsonl, characters.jsonl, splits.json, ..., and episodes.db unless "
            "--store names another place."
        ),
    ] = None,
    store: Annotated[str | None, typer.Option(help="Keep the episodes in this file or SQLAlchemy URL.")] = None,
    problems: Annotated[
        str | None, typer.Option(help="Write every problem to this JSONL file; stderr shows the first 20.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse if any record cannot be understood, and write nothing.")
    ] = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Bring SOTOPIA's data, or files of this package, along. Written whole or not at all."""
    from sotopia_env.cli import importing

    importing.run(
        paths=paths,
        out=out,
        store=store,
        problems=problems,
        strict=strict,
        quiet=quiet,
        as_json=as_json,
    )


@app.command(
    epilog=_example(
        "sotopia-env export runs.db --format jsonl --out episodes.jsonl",
        "sotopia-env export runs.db --format datasets --out my-dataset --status complete",
        "sotopia-env export everyday --format sotopia-flat --out everyday-for-sotopia",
        "sotopia-env export episodes.jsonl --format trl --out rows.jsonl --split train",
    )
)
def export(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="An episode store, a JSONL or Parquet file, a folder of tasks, a pack or pack/family.",
        ),
    ],
    out: Annotated[str, typer.Option(help="The file or, for datasets and SOTOPIA's forms, the new folder to write.")],
    format: Annotated[
        str, typer.Option(help="jsonl, parquet, datasets, trl, trl-turns, sotopia-flat or sotopia-native.")
    ] = "jsonl",
    split: Annotated[str | None, typer.Option(help="Only tasks of this split: train, validation or test.")] = None,
    status: Annotated[
        str | None, typer.Option(help="Only episodes of this status: complete, failed or judge_failed.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many.")] = None,
    judge: Annotated[
        str | None, typer.Option(help="For SOTOPIA's forms: whose verdict becomes the rewards, if there are several.")
    ] = None,
    facts_in_goals: Annotated[
        bool,
        typer.Option(
            "--facts-in-goals", help="For SOTOPIA's forms: binding rules and private facts go into the goals as hints."
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Decides which tasks a generated pack makes.")] = 0,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Take tasks or episodes to SOTOPIA, Hugging Face datasets, Parquet or TRL. Written whole or not at all."""
    from sotopia_env.cli import exporting

    exporting.run(
        source=source,
        format=format,
        out=out,
        split=split,
        status=status,
        limit=limit,
        judge=judge,
        facts_in_goals=facts_in_goals,
        seed=seed,
        quiet=quiet,
        as_json=as_json,
    )


@app.command(
    epilog=_example(
        "sotopia-env generate --model openai/gpt-4o-mini --n 500 --output tasks.jsonl --dry-run --price 0.15,0.6",
        "sotopia-env generate --model local/smollm2?temperature=0.5 --n 20 --output tasks.jsonl",
        "sotopia-env generate --model openai/gpt-4o --n 300 --output tasks.jsonl --seed 1 \\",
        "    --inspirations social-chem-101.tsv --inspirations social_iqa.jsonl --inspirations NormBank.csv \\",
        "    --avoid environment_profiles.jsonl",
    )
)
def generate(
    model: Annotated[str, typer.Option(help="Who writes: openai/<model> or local/<model>, with options.")],
    output: Annotated[str, typer.Option(help="The tasks go to this .jsonl file; replies and the report beside it.")],
    n: Annotated[int, typer.Option(min=1, help="How many inspirations; each gives at most one task.")] = 100,
    inspirations: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="A list of texts, or the file of Social Chemistry, Social IQa or NormBank; several share --n equally. "
            "Default: the built-in list.",
        ),
    ] = None,
    column: Annotated[str | None, typer.Option(help="The column of those files to take.")] = None,
    without: Annotated[str | None, typer.Option(metavar="FILE", help="Inspirations that must not be used.")] = None,
    examples: Annotated[
        str | None,
        typer.Option(metavar="TASKS", help="Where the prompts' examples are drawn from: a pack or path."),
    ] = None,
    shots: Annotated[int, typer.Option(min=0, help="Examples in each prompt.")] = 2,
    characters: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Who may be cast: characters or tasks. Default: those of the everyday pack."),
    ] = None,
    avoid: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASKS",
            help="Further tasks that none may resemble: a pack, a path, or SOTOPIA's environment profiles.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides inspirations, examples and casting.")] = 0,
    concurrency: Annotated[int, typer.Option(min=1, help="How many calls are under way at once.")] = 8,
    base_url: BaseUrlOption = None,
    price: Annotated[
        str | None,
        typer.Option(metavar="PROMPT,REPLY", help="US dollars per million tokens of prompts and replies: 2.5,10."),
    ] = None,
    max_tokens_total: MaxTokensTotalOption = None,
    max_cost: Annotated[
        float | None, typer.Option(help="Stop before they cost more US dollars; needs --price.")
    ] = None,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Have a model write new training tasks, and keep those that survive every check. Run it again to go on."""
    from sotopia_env.cli import generating

    code = generating.run(
        model=model,
        n=n,
        output=output,
        inspirations=inspirations or [],
        column=column,
        without=without,
        examples=examples,
        shots=shots,
        characters=characters,
        avoid=avoid or [],
        seed=seed,
        concurrency=concurrency,
        base_url=base_url,
        price=price,
        dry_run=dry_run,
        quiet=quiet,
        as_json=as_json,
        max_tokens_total=max_tokens_total,
        max_cost=max_cost,
    )
    raise typer.Exit(code)


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
    max_tokens_total: MaxTokensTotalOption = None,
    max_cost: MaxCostOption = None,
    price: PriceOption = None,
    dry_run: DryRunOption = False,
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
        max_tokens_total=max_tokens_total,
        max_cost=max_cost,
        prices=price or [],
        dry_run=dry_run,
        quiet=quiet,
        as_json=as_json,
    )
    raise typer.Exit(code)


@app.command(
    epilog=_example(
        "sotopia-env benchmark --policy mine=openai/gpt-4o-mini --section outcome --store bench.db --output mine.json",
        "sotopia-env benchmark --policy mine=openai/gpt-4o-mini --judge openai/gpt-4o --partner openai/gpt-4o-mini \\",
        "    --price openai/gpt-4o=2.5,10 --price openai/gpt-4o-mini=0.15,0.6 --dry-run",
        "sotopia-env benchmark --policy fair=scripted/fair --section outcome --tasks 12 --output quick.json",
    )
)
def benchmark(
    policy: Annotated[list[str], typer.Option(metavar="[LABEL=]SPEC", help="Once per policy.")],
    section: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SECTION",
            help="outcome, everyday, everyday-hard or sotopia-hard, once per section. Default: all that can be run; "
            "the others are named with the reason.",
        ),
    ] = None,
    judge: Annotated[
        str | None, typer.Option(help="Of the sections without computed outcomes: openai/<model> or local/<model>.")
    ] = None,
    partner: Annotated[
        list[str] | None, typer.Option(metavar="AGENT", help="Of the same sections, once per partner.")
    ] = None,
    sotopia: Annotated[
        str | None, typer.Option(metavar="PATH", help="SOTOPIA's data, for sotopia-hard. Default: the hub.")
    ] = None,
    tasks: Annotated[
        int | None,
        typer.Option(min=1, help="Only the first so many tasks of each section: a protocol of its own."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides generated tasks and the episodes' seeds.")] = 0,
    repeats: Annotated[int, typer.Option(min=1, help="How often each task is played from each seat.")] = 1,
    temperature: Annotated[str, typer.Option(help="Of models in any seat, or none.")] = "0.7",
    concurrency: ConcurrencyOption = 64,
    store: Annotated[
        str | None, typer.Option(help="Keep episodes in this file or SQLAlchemy URL, and skip what it has already.")
    ] = None,
    output: Annotated[
        str | None, typer.Option(metavar="FILE.json", help="The results file; timings go beside it.")
    ] = None,
    base_url: BaseUrlOption = None,
    judge_base_url: Annotated[
        str | None, typer.Option(help="Endpoint of an openai/... judge, if it is another one.")
    ] = None,
    max_tokens_total: MaxTokensTotalOption = None,
    max_cost: MaxCostOption = None,
    price: PriceOption = None,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Play policies through the fixed protocol, and write a results file from which it can be repeated."""
    from sotopia_env.cli import benchmarking

    code = benchmarking.run_benchmark(
        policies=policy,
        sections=section or [],
        judge=judge,
        partners=partner or [],
        sotopia=sotopia,
        tasks=tasks,
        seed=seed,
        repeats=repeats,
        temperature=temperature,
        concurrency=concurrency,
        store=store,
        output=output,
        base_url=base_url,
        judge_base_url=judge_base_url,
        max_tokens_total=max_tokens_total,
        max_cost=max_cost,
        prices=price or [],
        dry_run=dry_run,
        quiet=quiet,
        as_json=as_json,
    )
    raise typer.Exit(code)


@app.command(
    epilog=_example(
        "sotopia-env compare a.json b.json",
        "sotopia-env compare base.json bc.json sr.json --measure goal --measure welfare --json",
    )
)
def compare(
    files: Annotated[list[str], typer.Argument(metavar="FILE.json...", help="Results files of `benchmark`.")],
    measure: Annotated[
        list[str] | None, typer.Option(help="A dimension or figure, once per measure. Default: goal.")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(metavar="LABEL", help="Default: the first policy of the first file.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare results of one protocol: paired by task, corrected for the number of comparisons."""
    from sotopia_env.cli import benchmarking

    benchmarking.run_compare(files=files, measures=measure or [], baseline=baseline, as_json=as_json)


@app.command(
    epilog=_example(
        "sotopia-env leaderboard results/*.json --output leaderboard.html",
        "sotopia-env leaderboard a.json b.json --output leaderboard.html --json",
    )
)
def leaderboard(
    files: Annotated[list[str], typer.Argument(metavar="FILE.json...", help="Results files of `benchmark`.")],
    output: Annotated[str, typer.Option(metavar="FILE.html", help="Where the page goes; its Markdown goes beside it.")],
    as_json: JsonOption = False,
) -> None:
    """Write a page with all results, ranked, and the same as Markdown."""
    from sotopia_env.cli import benchmarking

    benchmarking.run_leaderboard(files=files, output=output, as_json=as_json)


@app.command(
    epilog=_example(
        "sotopia-env audit runs/quick-0 --judge local/smollm2 --n 12 --plays 2",
        "sotopia-env audit runs.db --judge openai/gpt-4o --base scripted/novice --trained scripted/fair",
        "sotopia-env audit runs.db --ratings ratings.csv --output audit.json --page audit.html",
    )
)
def audit(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="An episode store, a JSONL file of episodes, or the folder of a run of pi."
        ),
    ],
    judge: Annotated[
        str | None,
        typer.Option(
            help="A judge that gave verdicts before, by its name, or one that judges now what it has not yet: "
            "openai/<model>, local/<model> or module:attribute. Default: the only one that gave verdicts."
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(metavar="POLICY", help="What the trained policies come from. Default: of a run its base."),
    ] = None,
    trained: Annotated[
        list[str] | None,
        typer.Option(metavar="POLICY", help="A trained policy, once per policy. Default: of a run all of them."),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="POLICY",
            help="Another policy to audit: an agent's name or its beginning, or its label in a run. Default: with "
            "--base none; of a run all evaluated ones; else all.",
        ),
    ] = None,
    ratings: Annotated[
        str | None, typer.Option(metavar="FILE", help="Human ratings, CSV or JSONL, as docs/audit.md says.")
    ] = None,
    n: Annotated[int | None, typer.Option(min=1, help="Only so many tasks, drawn by the seed. Default: all.")] = None,
    plays: Annotated[
        int | None,
        typer.Option(min=1, help="Only so many plays of each task and policy, the same for all. Default: all."),
    ] = None,
    ask: Annotated[
        bool, typer.Option("--ask/--no-ask", help="Ask the judge about episodes that it has not judged yet.")
    ] = True,
    dimension: DimensionsOption = None,
    reward: Annotated[
        str | None,
        typer.Option(
            help="What the judge must fill, and the reward of episodes that have none yet. Default: goal where it is "
            "filled; an audit needs no reward."
        ),
    ] = None,
    concurrency: ConcurrencyOption = 16,
    seed: Annotated[int, typer.Option(help="Draws tasks, plays and the shuffled judge.")] = 0,
    output: Annotated[
        str | None, typer.Option("--output", "--out", help="Write every figure to this JSON file as well.")
    ] = None,
    page: Annotated[str | None, typer.Option(help="Write the tables to this HTML page as well.")] = None,
    base_url: BaseUrlOption = None,
    max_tokens_total: MaxTokensTotalOption = None,
    max_cost: MaxCostOption = None,
    price: PriceOption = None,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Hold a judge against computed outcomes and human ratings: is it biased, and more so for trained policies?"""
    from sotopia_env.cli import auditing

    code = auditing.run(
        source=source,
        judge=judge,
        base=base,
        trained=trained or [],
        policies=policy or [],
        ratings=ratings,
        n=n,
        plays=plays,
        ask=ask,
        dimensions=dimension or [],
        reward=reward,
        concurrency=concurrency,
        seed=seed,
        output=output,
        page=page,
        base_url=base_url,
        max_tokens_total=max_tokens_total,
        max_cost=max_cost,
        prices=price or [],
        dry_run=dry_run,
        quiet=quiet,
        as_json=as_json,
    )
    raise typer.Exit(code)


@app.command(
    epilog=_example(
        "sotopia-env robustness",
        "sotopia-env robustness --judge openai/gpt-4o-mini --dry-run",
        "sotopia-env robustness --judge openai/gpt-4o-mini --n 6 --output robustness.json",
        "sotopia-env robustness --judge local/smollm2 --dimension goal --attack verdict --attack role --naive",
    )
)
def robustness(
    judge: Annotated[
        str | None,
        typer.Option(
            help="Also ask this judge: outcome, openai/<model>, local/<model> or module:attribute. Default: only what "
            "our prompt and parser guarantee, which needs no model."
        ),
    ] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASKS", help="Two-seat tasks: a pack, pack/family or path. Default: outcome/bargain and everyday."
        ),
    ] = None,
    n: Annotated[int, typer.Option(min=1, help="How many tasks of each.")] = 4,
    attack: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ATTACK",
            help="An injection, or a kind: fence, verdict, score, role, claim, language or unicode. Default: all.",
        ),
    ] = None,
    place: Annotated[
        list[str] | None, typer.Option(help="utterance, action, name or background. Default: each of them.")
    ] = None,
    per_attack: Annotated[
        int, typer.Option(min=1, help="In how many of the tasks each injection is tried in each place.")
    ] = 1,
    dimension: Annotated[
        str | None, typer.Option(help="The scale to look at; a model is then asked for no other. Default: goal of all.")
    ] = None,
    naive: Annotated[
        bool, typer.Option("--naive", help="Also ask the same model without our prompt and parser, for comparison.")
    ] = False,
    dry_run: DryRunOption = False,
    concurrency: ConcurrencyOption = 16,
    seed: Annotated[int, typer.Option(help="Decides generated tasks and the episodes' seeds.")] = 0,
    store: Annotated[
        str | None,
        typer.Option(help="Keep what the judge answers in this file or SQLAlchemy URL, and ask nothing twice."),
    ] = None,
    output: Annotated[str | None, typer.Option(help="Write every figure and trial to this JSON file as well.")] = None,
    base_url: BaseUrlOption = None,
    max_tokens_total: MaxTokensTotalOption = None,
    max_cost: MaxCostOption = None,
    price: PriceOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Attack a judge: prompt injections, policies without merit, exchanged seats and names, padding."""
    from sotopia_env.cli import attacking

    code = attacking.run(
        judge=judge,
        tasks=tasks or [],
        n=n,
        attacks=attack or [],
        places=place or [],
        per_attack=per_attack,
        dimension=dimension,
        naive=naive,
        dry_run=dry_run,
        concurrency=concurrency,
        seed=seed,
        store=store,
        output=output,
        base_url=base_url,
        max_tokens_total=max_tokens_total,
        max_cost=max_cost,
        prices=price or [],
        quiet=quiet,
        as_json=as_json,
    )
    raise typer.Exit(code)


@app.command(
    epilog=_example(
        "sotopia-env safety --agent scripted/fair --agent scripted/tough",
        "sotopia-env safety --agent hf/runs/base --agent hf/runs/bc --partner openai/gpt-4o-mini --store safety.db \\",
        "    --judge openai/gpt-4o --output safety.json",
        "sotopia-env safety runs.db more.jsonl --words my-words.txt",
    )
)
def safety(
    source: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SOURCE]...", help="Stored episodes: stores or JSONL files. Or use --agent."),
    ] = None,
    agent: Annotated[
        list[str] | None,
        typer.Option(metavar="AGENT", help="Plays the safety scenes in both roles; once per policy to compare."),
    ] = None,
    partner: Annotated[
        str | None, typer.Option(metavar="AGENT", help="Who plays the other role. Default: the same agent.")
    ] = None,
    tasks: TasksOption = "safety",
    n: Annotated[int | None, typer.Option(min=1, help="Only the first so many tasks, or episodes of a source.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="How often each task is played.")] = 1,
    judge: Annotated[
        str | None,
        typer.Option(
            help="Ask this model too, and how far it can be trusted: openai/<model>, local/<model> or module:attribute."
        ),
    ] = None,
    words: Annotated[
        str | None, typer.Option(metavar="FILE", help="Toxic words, one a line, in place of the small built-in list.")
    ] = None,
    labels: Annotated[
        bool, typer.Option("--labels/--no-labels", help="Try rules and judge on the labelled utterances as well.")
    ] = True,
    store: Annotated[
        str | None,
        typer.Option(
            help="Keep episodes and the judge's answers in this file or SQLAlchemy URL, and skip what it has already."
        ),
    ] = None,
    max_turns: MaxTurnsOption = 20,
    concurrency: ConcurrencyOption = 16,
    seed: Annotated[int, typer.Option(help="Decides the episodes' seeds.")] = 0,
    output: Annotated[str | None, typer.Option(help="Write every figure to this JSON file as well.")] = None,
    base_url: BaseUrlOption = None,
    judge_base_url: Annotated[
        str | None, typer.Option(help="Endpoint of an openai/... judge, if it is another one.")
    ] = None,
    max_tokens_total: MaxTokensTotalOption = None,
    max_cost: MaxCostOption = None,
    price: PriceOption = None,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Engagement, harm, prevention, toxic words and leaked secrets, by policy and role, with intervals."""
    from sotopia_env.cli import safekeeping

    code = safekeeping.run(
        sources=source or [],
        agents=agent or [],
        partner=partner,
        tasks=tasks,
        n=n,
        repeats=repeats,
        judge=judge,
        words=words,
        labels=labels,
        store=store,
        max_turns=max_turns,
        concurrency=concurrency,
        seed=seed,
        output=output,
        base_url=base_url,
        judge_base_url=judge_base_url,
        max_tokens_total=max_tokens_total,
        max_cost=max_cost,
        prices=price or [],
        dry_run=dry_run,
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


@app.command(
    epilog=_example(
        "sotopia-env qa --policy base=hf/smollm2 --policy bc=hf/runs/laptop-0/policies/bc --data mmlu.zip",
        "sotopia-env qa --policy base=hf/smollm2 --policy bc=hf/runs/bc --questions 2000 --shots 5 \\",
        "    --scoring letter --store answers.jsonl --output qa.json --seed 1",
        "sotopia-env qa --policy hf/smollm2 --task hellaswag --task arc_easy --questions 500 --json",
    )
)
def qa(
    policy: Annotated[
        list[str],
        typer.Option(
            metavar="[LABEL=]SPEC",
            help="Once per hf/<hub id or folder>, a PEFT adapter's too; changes are taken to the first.",
        ),
    ],
    task: Annotated[
        list[str] | None,
        typer.Option(metavar="TASK", help="mmlu, or any task or group that lm-eval knows by name. Default: mmlu."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="A zip or folder of MMLU's CSV files, or hub. Default: hub (cais/mmlu)."),
    ] = None,
    subject: Annotated[
        list[str] | None, typer.Option(help="Only this subject of MMLU; more than once for some.")
    ] = None,
    scoring: Annotated[
        list[str] | None,
        typer.Option(help="How MMLU's answers are read: letter, text (of the choices), or both, which is the default."),
    ] = None,
    questions: Annotated[
        int,
        typer.Option(
            min=1, help="How many, over subjects in proportion to their size; more than there are means all of them."
        ),
    ] = 1000,
    shots: Annotated[
        int | None,
        typer.Option(min=0, help="Examples before each question. Default: none for MMLU, else the task's own."),
    ] = None,
    apply_chat_template: Annotated[
        bool, typer.Option("--apply-chat-template", help="Write prompts with the model's chat template.")
    ] = False,
    include: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="lm-eval tasks (YAML) of your own, for --task.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts that are computed at once, on a GPU.")] = 8,
    seed: Annotated[int, typer.Option(help="Decides which questions are asked.")] = 0,
    store: Annotated[
        str | None, typer.Option(help="Keep every answer in this JSONL file, and ask nothing again that it holds.")
    ] = None,
    output: Annotated[str | None, typer.Option(help="Write the results to this JSON file as well.")] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Ask policies multiple-choice questions (MMLU) through lm-eval: what training cost them in general ability."""
    from sotopia_env.cli import qa_command

    qa_command.run(
        policies=policy,
        tasks=task or ["mmlu"],
        data=data,
        subjects=subject or [],
        scorings=scoring or [],
        questions=questions,
        shots=shots,
        apply_chat_template=apply_chat_template,
        include=include,
        batch_size=batch_size,
        seed=seed,
        store=store,
        output=output,
        quiet=quiet,
        as_json=as_json,
    )


@app.command(epilog=_example("sotopia-env demo", "sotopia-env demo --seed 7 --json"))
def demo(
    seed: SeedOption = 1,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Watch two scripted agents deal, then compare some pairs on 50 test tasks. No model, no key, no network."""
    from sotopia_env.cli import demonstration

    demonstration.run(seed=seed, quiet=quiet, as_json=as_json)
