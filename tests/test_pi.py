"""The whole loop in one run: what it makes, what it skips, how it goes on after being killed, what it refuses.

One micro run, with a base of one layer, is made once and shared; tests that change something work on a copy.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from sotopia_env.cli import app
from sotopia_env.cli.learning import read_minutes, read_setting, read_tasks
from sotopia_env.dimensions import DIMENSIONS
from sotopia_env.episodes import dump_json
from sotopia_env.errors import ConfigurationError, JudgeError
from sotopia_env.evaluation import Evaluation
from sotopia_env.loopback import LoopbackServer
from sotopia_env.specs import make_agent, make_judge
from sotopia_env.store import EpisodeStore
from sotopia_env.tasks import digest, load_tasks, write_tasks
from sotopia_env.trainers import pi
from sotopia_env.trainers.filters import FILTERS, threshold
from sotopia_env.trainers.pi import POLICIES, Run, beside
from sotopia_env.trainers.plan import JUDGE_REPLY, plan
from sotopia_env.trainers.settings import PRESETS, load_preset
from sotopia_env.trainers.tiny import build

MICRO = """
description = "as small as it gets"
minutes = 1

[base.tiny]
layers = 1
width = 48
heads = 2
inner = 64
vocabulary = 400
partners = ["scripted/novice"]
speakers = ["scripted/novice", "scripted/fair"]
families = ["bargain"]
tasks = 80
exercises = 32
refreshers = 8
training = { method = "full", learning_rate = 1e-2, batch_size = 2, epochs = 3, max_length = 1024, dtype = "float32" }

[tasks]
families = ["bargain"]

[expert]
agent = "scripted/expert"
partners = ["scripted/fair", "scripted/expert"]
tasks = 12
filter = { rule = "threshold", at_least = 1.0 }

[bc.training]
method = "full"
learning_rate = 3e-3
batch_size = 2
max_length = 1024
dtype = "float32"
logging_steps = 1
save_steps = 2

[sr]
partner = "pool"
partners = ["scripted/fair", "scripted/soft"]
tasks = 4
repeats = 2
filter = { rule = "paper-sr", share = 0.5 }

[sr.training]
method = "full"
learning_rate = 1e-3
batch_size = 2
max_length = 1024
dtype = "float32"
logging_steps = 1

[play]
temperature = 0.6
max_tokens = 24
max_turns = 4

[evaluation]
tasks = 2
partners = ["scripted/stubborn", "scripted/deceptive", "scripted/tough"]
trivial = false
"""

LABELS = ("base", "bc", "sr", "bc+sr", "sr+bc", "expert")


@pytest.fixture(autouse=True)
def _no_endpoint(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Models this small are slower on several threads, much slower if the cores are busy."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def micro(tmp_path_factory) -> Path:
    """The preset's file."""
    path = tmp_path_factory.mktemp("preset") / "micro.toml"
    path.write_text(MICRO)
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory, micro) -> Path:
    """The folder of a run that went through. Nobody writes to it."""
    pytest.importorskip("trl")
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert Run(load_preset(micro), folder).run() == folder / "report.html"
    return folder


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(finished, tmp_path / "copied"))


def told(micro, folder, **changes) -> list[str]:
    """Run the loop and give what it told, stage by stage."""
    lines: list[str] = []
    Run(load_preset(micro, changes), folder, tell=lines.append).run()
    return lines


def stages(lines, what):
    return [line.partition(":")[0] for line in lines if line.endswith(what)]


def read(folder, name="report.json"):
    return json.loads((folder / name).read_text())


def after(stage):
    """A listener that presses Ctrl-C when a stage is done."""

    def tell(line):
        if line.startswith(f"{stage}: done"):
            raise KeyboardInterrupt

    return tell


# --- what a run makes -----------------------------------------------------------------------------------


def test_the_report_has_every_policy_on_both_kinds_of_unseen_tasks_with_an_interval(finished):
    report = read(finished)
    assert [(row["policy"], row["tasks"]) for row in report["policies"]] == [
        (policy, tasks) for policy in LABELS for tasks in ("seen-wording", "unseen-wording")
    ]
    for row in report["policies"]:
        goal = row["goal"]
        assert goal["n"] == 2 * 3 * 2  # tasks, partners, seats
        assert goal["low"] <= goal["mean"] <= goal["high"]
        assert 0 <= goal["mean"] <= 10
    assert report["missing"] == []
    assert {(pair["a"], pair["b"]) for pair in report["paired"]} >= {("bc", "base"), ("bc+sr", "bc")}
    assert set(report["filters"]) == {"expert", "sr", "bc+sr"}
    assert set(report["training"]) == {"base", "bc", "sr", "bc+sr", "sr+bc"}
    assert all(record["losses"] for record in report["training"].values())


def test_the_manifest_says_what_every_stage_came_to_and_holds_every_setting(finished, micro):
    manifest = read(finished, "manifest.json")
    assert manifest["settings"] == json.loads(json.dumps(load_preset(micro).record()))
    assert (manifest["preset"], manifest["seed"]) == ("micro", 0)
    assert list(manifest["stages"])[:4] == ["base", "expert play", "bc", "sr play"]
    assert all(set(stage) == {"inputs", "statistics", "seconds"} for stage in manifest["stages"].values())
    assert manifest["stages"]["expert play"]["statistics"] == {"episodes": 12, "broken": 0, "first_error": None}
    assert read(finished)["stages"]["bc"]["steps"] == read(finished, "training/bc.json")["steps"] > 0


def test_no_task_of_training_is_met_again_in_evaluation(finished):
    def tasks(name):
        with EpisodeStore(finished / "episodes" / name) as store:
            return {episode.task.digest for episode in store.episodes()}

    expert, own = tasks("expert.db"), tasks("sr.db")
    assert len(expert) == 12
    assert len(own) == 4
    assert expert.isdisjoint(own)
    assert tasks("evaluation.db").isdisjoint(expert | own)


def test_reinforcement_plays_both_seats_with_each_of_its_partners(finished):
    with EpisodeStore(finished / "episodes" / "sr.db") as store:
        casts = {tuple(episode.agents.values()) for episode in store.episodes()}
    me = {name for cast in casts for name in cast if name.startswith("hf/")}
    assert len(me) == 1
    (mine,) = me
    assert casts == {pair for other in ("scripted/fair", "scripted/soft") for pair in ((mine, other), (other, mine))}


# --- run again ------------------------------------------------------------------------------------------


def test_a_second_run_does_nothing_shows_the_table_again_and_the_report_is_the_same_to_the_byte(
    finished, copied, micro
):
    result = command("--preset", micro, "--run", copied)
    assert {line.partition(": ")[2] for line in result.stderr.splitlines()} == {"done before"}
    for name in ("report.html", "report.json", "evaluation.json", "manifest.json", "filters/sr.json"):
        assert (copied / name).read_bytes() == (finished / name).read_bytes()
    for policy in LABELS:
        assert any(line.startswith(f"{policy} ") for line in result.stdout.splitlines())
    for text in ("bc - base", "bc+sr - bc", "seen-wording", "unseen-wording", f"Report: {copied}/report.html"):
        assert text in result.stdout


def test_a_changed_filter_trains_again_what_it_touches_and_plays_nothing_again_but_that(finished, copied, micro):
    lines: list[str] = []
    changed = load_preset(micro, {"sr.filter.share": 1.0})
    with pytest.raises(KeyboardInterrupt):
        Run(changed, copied, tell=lambda line: (lines.append(line), after("sr+bc")(line))).run()
    assert stages(lines, "its inputs have changed") == ["sr", "bc+sr", "sr+bc"]
    assert stages(lines, "done before") == ["base", "expert play", "bc", "sr play", "bc+sr play"]
    assert read(copied, "filters/sr.json")["kept"] > read(finished, "filters/sr.json")["kept"]


@pytest.mark.slow
def test_a_changed_filter_evaluates_again_what_it_touches_and_back_again_the_report_is_the_same(
    finished, copied, micro
):
    lines = told(micro, copied, **{"sr.filter.share": 1.0})
    touched = ["sr", "bc+sr", "sr+bc"]
    assert stages(lines, "its inputs have changed") == [
        *touched,
        *(f"{what} of {label}" for what in ("evaluation", "samples") for label in touched),
    ]
    untouched = ("expert", "bc", "base")
    before, now = ([row for row in read(run)["policies"] if row["policy"] in untouched] for run in (finished, copied))
    assert now == before
    told(micro, copied)
    assert (copied / "report.json").read_bytes() == (finished / "report.json").read_bytes()


@pytest.mark.slow
def test_a_control_is_added_and_taken_away_without_touching_the_rest(finished, copied, micro):
    lines = told(micro, copied, **{"sr.control": True})
    done = ["fresh expert play", "control", "evaluation of control", "samples of control"]
    assert stages(lines, "started") == done
    steps = read(copied, "training/control.json")["steps"]
    assert steps == read(copied, "training/bc+sr.json")["steps"]
    assert "control" in {row["policy"] for row in read(copied)["policies"]}
    assert stages(told(micro, copied), "started") == []
    assert (copied / "report.json").read_bytes() == (finished / "report.json").read_bytes()


@pytest.mark.slow
def test_more_tasks_play_only_what_is_new(copied, micro):
    known = {episode.id: episode.started_at for episode in episodes(copied, "evaluation.db")}
    told(micro, copied, **{"evaluation.tasks": 3})
    found = {episode.id: episode.started_at for episode in episodes(copied, "evaluation.db")}
    assert len(found) == len(known) * 3 / 2
    assert known.items() <= found.items()


# --- killed ---------------------------------------------------------------------------------------------


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_report(finished, micro, tmp_path, monkeypatch):
    folder = tmp_path / "killed"
    with_base_only(finished, folder)
    for stage in ("expert play", "sr", "evaluation of sr"):
        with pytest.raises(KeyboardInterrupt):
            Run(load_preset(micro), folder, tell=after(stage)).run()
        assert not (folder / "report.json").exists()
        if stage == "expert play":
            killed_inside_training(micro, folder, monkeypatch)
    told(micro, folder)
    assert read(folder, "policies/bc/training.json")["resumed_from"] == 2
    for name in ("report.json", "report.html"):
        assert (folder / name).read_bytes() == (finished / name).read_bytes()


def with_base_only(finished, folder):
    """What a run leaves that was killed as soon as its base was made."""
    (folder / "policies").mkdir(parents=True)
    shutil.copytree(finished / "policies" / "base", folder / "policies" / "base")
    (folder / "training").mkdir()
    shutil.copy(finished / "training" / "base.json", folder / "training")
    manifest = read(finished, "manifest.json")
    manifest["stages"] = {"base": manifest["stages"]["base"]}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def killed_inside_training(micro, folder, monkeypatch):
    """Ctrl-C after the third optimizer step of behavior cloning, when one checkpoint is written."""
    whole = pi.train

    def interrupted(*arguments, **options):
        def stop(entry):
            if entry["step"] == 3:
                raise KeyboardInterrupt

        return whole(*arguments, **options, progress=stop)

    with monkeypatch.context() as patch:
        patch.setattr(pi, "train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Run(load_preset(micro), folder).run()
    assert (folder / "policies" / "bc.partial").is_dir()
    assert not (folder / "policies" / "bc").exists()


class Moody:
    """An expert, or a judge, that fails in the first episode that it meets until it is well."""

    inline = True

    def __init__(self, inner):
        self.inner, self.name, self.is_well, self.first = inner, f"moody-{inner.name}", False, None

    def _fails(self, what):
        self.first = self.first or what
        if self.first == what and not self.is_well:
            raise JudgeError("rate limit")

    def act(self, observation):
        self._fails(json.loads(observation["facts"])["seed"])
        return self.inner.act(observation)

    def score(self, episode):
        self._fails(episode.id)
        return self.inner.score(episode)


def opened(preset, folder, tell=lambda line: None) -> Run:
    """A run of which single stages are done."""
    run = Run(preset, folder, tell=tell)
    run.stages.open(preset=preset.name, settings={}, version="")
    return run


def test_what_broke_off_in_a_finished_stage_of_play_stays_as_it_is_when_the_stage_is_read(micro, tmp_path, monkeypatch):
    moody = ModuleType("moody")
    moody.expert, moody.judge = Moody(make_agent("scripted/expert")), Moody(make_judge("outcome"))
    monkeypatch.setitem(sys.modules, "moody", moody)
    changes = {"expert.agent": "moody:expert", "expert.partners": ["scripted/fair"], "expert.tasks": 24}
    preset, folder = load_preset(micro, {**changes, "judge.agent": "moody:judge"}), tmp_path / "run"
    found = opened(preset, folder)._expert("expert", pi._EXPERT_TASKS)
    assert {"failed", "judge failed"} <= found.statistics["dropped"].keys()
    stored, record = episodes(folder, "expert.db"), (folder / "filters" / "expert.json").read_bytes()
    moody.expert.is_well = moody.judge.is_well = True
    again = opened(preset, folder)
    assert again._expert("expert", pi._EXPERT_TASKS) == found
    assert again.manifest["stages"]["expert play"]["statistics"]["broken"] == 2
    assert episodes(folder, "expert.db") == stored
    assert (folder / "filters" / "expert.json").read_bytes() == record


@pytest.mark.slow
def test_what_an_interrupted_stage_left_of_other_settings_is_not_gone_on_with(finished, copied, micro):
    with pytest.raises(KeyboardInterrupt):
        Run(load_preset(micro, {"sr.filter.share": 1.0}), copied, tell=after("sr")).run()
    told(micro, copied)
    assert (copied / "report.json").read_bytes() == (finished / "report.json").read_bytes()


def test_two_processes_make_what_one_makes_interrupted_or_not(finished, micro, tmp_path):
    torch = pytest.importorskip("torch")
    torch.set_num_threads(2)  # one for each process, as the finished run had
    try:
        lines: list[str] = []

        def tell(line):
            lines.append(line)
            if line.startswith("sr: done"):  # by the other process
                raise KeyboardInterrupt

        preset, folder = load_preset(micro, {"processes": 2}), tmp_path / "two"
        with pytest.raises(KeyboardInterrupt):
            Run(preset, folder, tell=tell).run()
        assert "statistics" not in read(folder, "manifest.json")["stages"].get("sr+bc", {})
        assert not (folder / "report.html").exists()
        again = told(micro, folder, processes=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert {"bc", "sr", "sr+bc", "bc+sr"} <= {*stages(lines, "started"), *stages(again, "started")}
    assert "sr" in stages(again, "done before")
    for name in stages(again, "done before"):
        assert again.count(f"{name}: done before") == 1
        assert name not in stages(again, "started")
    for policy in ("bc", "sr", "bc+sr", "sr+bc"):
        weights = f"policies/{policy}/model.safetensors"
        assert (folder / weights).read_bytes() == (finished / weights).read_bytes()
    one, two = read(finished), read(folder)
    assert (one["settings"].pop("processes"), two["settings"].pop("processes")) == (1, 2)
    assert one == two
    assert list(read(folder, "manifest.json")["stages"]) == list(read(finished, "manifest.json")["stages"])


def test_a_process_that_is_done_evaluates_what_no_other_has_claimed(finished, copied, micro, tmp_path):
    shutil.rmtree(copied / "evaluation")
    (copied / "evaluation.json").unlink()
    (tmp_path / "claims").mkdir()
    run = Run(load_preset(micro), copied)
    run.stages.join(set())
    folders = {name: copied / "policies" / name for name in ("bc", "sr")}
    (tmp_path / "claims" / digest([run.agent(folders["bc"]).name])).touch()
    for _ in range(2):  # the second time all is claimed
        run._evaluate(folders, str(tmp_path / "claims"))
        assert {path.name for path in (copied / "evaluation").iterdir()} == {"sr.json", "expert.json"}
    assert not (copied / "evaluation.json").exists()
    lines = told(micro, copied)
    assert {"evaluation of sr", "evaluation of expert"} <= set(stages(lines, "done before"))
    assert "evaluation of bc" in stages(lines, "started")
    assert (copied / "report.json").read_bytes() == (finished / "report.json").read_bytes()


def test_what_fails_in_another_process_fails_the_run_and_keeps_the_rest(finished, copied, micro):
    torch = pytest.importorskip("torch")
    shutil.rmtree(copied / "policies" / "sr")
    (copied / "policies" / "sr.partial").write_text("in the way")
    torch.set_num_threads(2)
    try:
        with pytest.raises(ConfigurationError, match=r"sr' cannot be written: NotADirectoryError"):
            told(micro, copied, processes=2)
    finally:
        torch.set_num_threads(1)
    assert "statistics" not in read(copied, "manifest.json")["stages"]["sr"]
    assert read(copied, "manifest.json")["stages"]["bc"] == read(finished, "manifest.json")["stages"]["bc"]


@pytest.mark.slow
def test_a_process_killed_inside_training_goes_on_from_its_checkpoint(finished, micro, tmp_path):
    folder = tmp_path / "killed"
    with_base_only(finished, folder)
    # Slow enough to be caught in the middle; epochs are a setting, so the report is not the shared run's.
    command = [Path(sys.executable).with_name("sotopia-env"), "pi", "--preset", micro, "--run", folder]
    command += ["--set", "bc.training.epochs=10"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": {**os.environ, "OMP_NUM_THREADS": "1"}}
    process = subprocess.Popen(command, **quiet)
    checkpoints = folder / "policies" / "bc.partial" / "checkpoints"
    end = time.monotonic() + 300
    while not list(checkpoints.glob("checkpoint-*/trainer_state.json")):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = episodes(folder, "expert.db")
    subprocess.run(command, check=True, **quiet)
    assert read(folder, "policies/bc/training.json")["resumed_from"] > 0
    assert episodes(folder, "expert.db") == kept
    through = tmp_path / "through"
    with_base_only(finished, through)
    subprocess.run([through if part == folder else part for part in command], check=True, **quiet)
    assert (folder / "report.json").read_bytes() == (through / "report.json").read_bytes()


def plain(episode):
    return json.loads(dump_json(episode))


def questions(record):
    """What the judge was asked about an episode."""
    details = record["verdicts"]["openai/judge?temperature=0"]["details"]
    return [call["prompt"] for calls in details["calls"].values() for call in calls]


def episodes(folder, name):
    with EpisodeStore(folder / "episodes" / name) as store:
        return list(store.episodes())


# --- hosted models --------------------------------------------------------------------------------------


def hosted(request):
    """A teacher that offers and accepts, and a judge whose goals differ from agent to agent."""
    asked = request["messages"][-1]["content"]
    draw = random.Random(asked)
    if request["model"] == "judge":
        return json.dumps({d.name: {"reason": "so it was", "score": draw.randint(d.low, d.high)} for d in DIMENSIONS})
    action = draw.choice([("speak", "Good morning."), ("action", f"offer {draw.randrange(100, 999)}")])
    return json.dumps({"action_type": action[0], "argument": action[1]})


@pytest.mark.slow
def test_hosted_expert_judge_and_partner_take_part_by_their_specs_as_the_plan_says(
    finished, micro, tmp_path, monkeypatch
):
    changes = {
        "base.model": str(finished / "policies" / "bc"),
        "expert": {
            "agent": "openai/teacher",
            "partners": ["self"],
            "tasks": 2,
            "repeats": 3,
            "filter": {"rule": "paper-bc", "keep": 1},
        },
        "sr.partner": "self",
        "sr.tasks": 2,
        "judge": {"agent": "openai/judge?temperature=0", "reward": "overall"},
        "evaluation.tasks": 1,
        "evaluation.partners": ["openai/partner", "scripted/tough", "scripted/stubborn"],
        "prices": {f"openai/{name}": {"prompt": 1.0, "completion": 2.0} for name in ("teacher", "judge", "partner")},
    }
    with LoopbackServer(hosted) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        told(micro, tmp_path / "run", **changes)
        bodies = list(server.bodies)
    asked = Counter(body["model"] for body in bodies)
    found = plan(load_preset(micro, changes))
    done = read(tmp_path / "run", "manifest.json")["stages"]
    assert [step.stage for step in found.steps[:5]] == list(done)[:5]
    stores = [episodes(tmp_path / "run", store.name) for store in (tmp_path / "run/episodes").glob("*.db")]
    samples = [one for file in (tmp_path / "run/samples").glob("*.json") for one in json.loads(file.read_text())]
    by_store = [[question for one in store for question in questions(plain(one))] for store in stores]
    apart = [question for one in samples for question in questions(one)]
    planned = sum(use.calls for step in found.steps for use in step.uses if use.role == "judge")
    assert planned == sum(map(len, by_store)) + len(apart)
    # A store keeps answers by question: talks that come out alike, as of one who leaves at once, are judged once.
    assert asked["judge"] == sum(len(set(asked_there)) for asked_there in by_store) + len(apart)
    assert asked["teacher"] > 2 * 6
    assert asked["partner"] > 0
    assert {body.get("temperature") for body in bodies if body["model"] == "judge"} == {0}
    assert found.dollars > 0
    assert read(tmp_path / "run", "filters/expert.json")["judge"] == "openai/judge?temperature=0"
    assert all("reward" in row for row in read(tmp_path / "run")["policies"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft reads the old name
def test_the_paper_preset_runs_to_its_end_without_a_gpu_on_a_small_base_and_served_models(tmp_path, monkeypatch):
    base = build(tmp_path / "base", load_preset("quick").base.tiny).output
    fewer = {f"{part}.{name}": 2 for part in ("expert", "sr") for name in ("tasks", "repeats")}
    fewer |= {
        f"{part}.training.{name}": n for part in ("bc", "sr") for name, n in (("epochs", 1), ("max_length", 1024))
    }
    changes = {
        "needs.gpu": False,
        "base.model": str(base),
        "tasks.pack": "outcome",  # which the small base has words for; the judge is asked all the same
        "tasks.families": ["bargain"],
        "evaluation.tasks": 1,
        "play.max_turns": 6,
        "play.max_tokens": 40,
        **fewer,
    }
    usual = load_preset("paper")

    def served(request):
        is_judge = request["model"] == "gpt-4o" and request.get("temperature") == 0
        return hosted({**request, "model": "judge" if is_judge else "teacher"})

    with LoopbackServer(served) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-not-to-be-kept")
        told("paper", tmp_path / "run", **changes)
    report = read(tmp_path / "run")
    assert {row["policy"] for row in report["policies"]} >= {*LABELS}
    assert all(row["goal"]["n"] == 6 for row in report["policies"])
    training = read(tmp_path / "run", "policies/bc/training.json")
    assert training["settings"]["method"] == usual.bc.training.method == "qlora"
    assert training["settings"]["form"] == "paper"
    assert read(tmp_path / "run", "policies/bc/adapter_config.json")["r"] == 8
    assert read(tmp_path / "run", "filters/expert.json")["judge"] == usual.judge.agent
    kept = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert not [path for path in kept if b"sk-not-to-be-kept" in path.read_bytes()]


# --- refused --------------------------------------------------------------------------------------------

REFUSED = [
    pytest.param(
        {"evaluation.partners": ["scripted/fair", "scripted/tough", "scripted/stubborn"]},
        "Training meets",
        id="partner-met",
    ),
    pytest.param({"evaluation.partners": ["scripted/tough"]}, "at least 3 are needed", id="one-partner"),
    pytest.param({"expert.agent": "openai/gpt-4o"}, "No API key for model 'gpt-4o'", id="no-key-expert"),
    pytest.param({"judge.agent": "openai/gpt-4o"}, "No API key for model 'gpt-4o'", id="no-key-judge"),
    pytest.param({"needs.environment": ["MY_TOKEN"]}, "environment variable MY_TOKEN", id="no-variable"),
    pytest.param({"judge.reward": "knowledge"}, "cannot fill", id="reward-not-judged"),
    pytest.param(
        {"tasks.pack": "everyday", "tasks.families": []}, "outcome judge cannot score it", id="tasks-not-judged"
    ),
    pytest.param(
        {"tasks.pack": "everyday-hard", "tasks.families": []}, "no tasks in split 'train'", id="no-training-tasks"
    ),
    pytest.param({"tasks.families": ["bargian"]}, "Did you mean 'bargain'", id="family"),
    pytest.param({"base.model": "no/such/folder"}, "There is no folder", id="no-model"),
    pytest.param({"sr.training.method": "lora"}, "all weights", id="adapter-after-weights"),
    pytest.param({"expert.agent": "scripted/exprt"}, "Did you mean 'expert'", id="agent"),
    pytest.param({"base.forced": "scripted/exprt"}, "Did you mean 'expert'", id="forced"),
    pytest.param({"expert.taks": 3}, "Did you mean 'expert.tasks'", id="setting"),
    pytest.param({"bc.training.epoch": 3}, "Did you mean 'epochs'", id="training-setting"),
    pytest.param({"expert.filter.shar": 3}, "option of filter", id="filter-option"),
    pytest.param({"sr.filter.rule": "best"}, "Unknown filter 'best'", id="filter"),
    pytest.param({"tasks.split": "test"}, "not unseen", id="split"),
    pytest.param({"expert.filter.reward": "knowledge"}, "cannot fill", id="expert-filter-not-judged"),
    pytest.param({"sr.filter.reward": {"goal": 1, "knowledge": 1}}, "cannot fill", id="sr-filter-not-judged"),
    pytest.param(
        {"expert.partners": ["self", "scripted/expert"], "expert.every_cast": True},
        "Name every partner once",
        id="twice",
    ),
    pytest.param({"sr.partners": []}, "needs partners", id="empty-pool"),
    pytest.param({"play.temperature": "hot"}, "valid number", id="type"),
    pytest.param({"play.temperature": float("inf")}, "finite number", id="temperature"),
    pytest.param({"play.dtype": "foo"}, "Unknown dtype 'foo'", id="dtype"),
    pytest.param({"play.quantize": "nf3"}, "Did you mean 'nf4'", id="quantize"),
    pytest.param({"evaluation.partners": []}, "at least 3 are needed", id="no-partners"),
    pytest.param({"expert.partners": []}, "at least 1", id="no-expert-partners"),
    pytest.param({"rates.train": 0}, "'rates.train'.* greater than 0", id="rate"),
    pytest.param({"prices.openai/x.prompt": -1}, "'prices.openai/x.prompt'", id="price"),
    pytest.param({"bc.training.target_modules": 5}, "target_modules is 5", id="modules"),
    pytest.param({"base.tiny.heads": 0}, "heads is 0", id="heads"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_what_cannot_be_finished_is_refused_in_one_line_before_anything_is_done(changes, message, micro, tmp_path):
    with pytest.raises(ConfigurationError, match=message) as caught:
        Run(load_preset(micro, changes), tmp_path / "run").run()
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_base_without_chat_template_is_refused_before_anything_is_done(finished, micro, tmp_path):
    base = Path(shutil.copytree(finished / "policies" / "base", tmp_path / "base"))
    (base / "chat_template.jinja").unlink()
    with pytest.raises(ConfigurationError, match="no chat template"):
        Run(load_preset(micro, {"base.model": str(base)}), tmp_path / "run").run()
    assert not (tmp_path / "run").exists()


def test_a_missing_gpu_is_told_before_anything_is_done(micro, tmp_path):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigurationError, match="needs a GPU"):
        Run(load_preset(micro, {"needs.gpu": True}), tmp_path / "run").run()
    assert not (tmp_path / "run").exists()


def test_a_filter_that_keeps_nothing_stops_the_run_and_says_why(finished, copied, micro):
    with pytest.raises(ConfigurationError, match=r"kept none of 24 trajectories: .*below threshold"):
        told(micro, copied, **{"expert.filter.at_least": 11.0})
    assert episodes(copied, "expert.db") == episodes(finished, "expert.db")


def test_a_base_that_cannot_teach_itself_is_its_own_sr_and_the_run_goes_on(finished, copied, micro, monkeypatch):
    def nothing_of_base(episodes, **options):
        learner = options.get("learner", "")
        return threshold(episodes, at_least=11.0 if learner.startswith("hf/base") else 0.0, **options)

    monkeypatch.setitem(FILTERS, "nothing-of-base", nothing_of_base)
    lines = told(micro, copied, **{"sr.filter": {"rule": "nothing-of-base"}})
    assert "sr is base: the filter kept nothing for self-reinforcement to learn from" in lines
    assert not (copied / "policies" / "sr+bc").exists()
    report = read(copied)
    assert report["filters"]["sr"]["kept"] == 0 < report["filters"]["bc+sr"]["kept"]
    assert report["stages"]["sr"]["same_as"] == "base"
    assert report["stages"]["sr+bc"]["same_as"] == "bc"
    assert set(report["training"]) == {"base", "bc", "bc+sr"}
    assert not (copied / "policies" / "sr").exists()
    goals = {(row["policy"], row["tasks"]): row["goal"] for row in report["policies"]}
    for tasks in ("seen-wording", "unseen-wording"):
        assert goals["sr", tasks] == goals["base", tasks]
        assert goals["sr+bc", tasks] == goals["bc", tasks]
    assert "sr is base: the filter kept nothing" in (copied / "report.html").read_text()
    assert not stages(told(micro, copied, **{"sr.filter": {"rule": "nothing-of-base"}}), "started")
    told(micro, copied)  # and back
    assert (copied / "report.json").read_bytes() == (finished / "report.json").read_bytes()


def test_a_base_whose_play_holds_nothing_to_learn_from_is_its_own_sr(micro, tmp_path, monkeypatch):
    class Silent:
        name, inline = "silent", True

        def act(self, observation):
            return {"action_type": "none", "argument": ""}

    monkeypatch.setattr(Run, "agent", lambda run, policy: Silent())
    lines = []
    changes = {"sr.filter": {"rule": "threshold", "at_least": 0.0}, "sr.training.keep_none": False}
    run = opened(load_preset(micro, changes), tmp_path / "run", lines.append)
    assert run._reinforce("sr", tmp_path, may_keep_nothing=True) == (tmp_path, 0)
    assert read(tmp_path / "run", "filters/sr.json")["kept"] == 8
    assert "sr is base: the filter kept nothing for self-reinforcement to learn from" in lines


def test_episodes_without_verdicts_stop_the_run_and_stay(finished, micro, tmp_path, monkeypatch):
    (tmp_path / "mute_judge.py").write_text(
        "from sotopia_env import JudgeError\n"
        "class Mute:\n"
        "    name = 'mute'\n"
        "    def score(self, episode):\n"
        "        raise JudgeError('no verdict today')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    changes = {"judge.agent": "mute_judge:Mute", "base.model": str(finished / "policies" / "base")}
    with pytest.raises(ConfigurationError, match=r"12 of 12 episodes .* could not be judged.*no verdict today"):
        told(micro, tmp_path / "run", **changes)
    assert {episode.status for episode in episodes(tmp_path / "run", "expert.db")} == {"judge_failed"}


def test_a_folder_that_cannot_be_written_is_told_in_one_line(finished, micro, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ConfigurationError, match=r"stopped: .*What is finished is kept"):
        told(micro, tmp_path / "file" / "run")


def test_two_runs_at_once_in_one_folder_are_refused_and_the_first_goes_on(copied, micro):
    refused = []

    def again(line):
        if not refused:
            with pytest.raises(ConfigurationError, match="Another run is at work in") as caught:
                told(micro, copied)
            refused.append(str(caught.value))

    Run(load_preset(micro), copied, tell=again).run()
    assert len(refused) == 1
    told(micro, copied)


def test_a_disk_that_fills_up_in_training_is_told_in_one_line_and_the_run_goes_on_from_there(finished, copied, micro):
    shutil.rmtree(copied / "policies" / "bc")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))  # smaller than the model
    try:
        with pytest.raises(ConfigurationError, match=r"stopped: .*What is finished is kept") as caught:
            told(micro, copied)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "\n" not in str(caught.value)
    told(micro, copied)
    assert (copied / "report.json").read_bytes() == (finished / "report.json").read_bytes()


def test_a_manifest_that_is_none_is_refused(copied, micro):
    (copied / "manifest.json").write_text("[]")
    with pytest.raises(ConfigurationError, match=r"manifest.json' cannot be read: it holds no mapping"):
        told(micro, copied)


def test_a_manifest_of_a_newer_version_is_refused(copied, micro):
    manifest = read(copied, "manifest.json")
    (copied / "manifest.json").write_text(json.dumps({**manifest, "manifest_version": 99}))
    with pytest.raises(ConfigurationError, match="newer version"):
        told(micro, copied)


# --- tasks ----------------------------------------------------------------------------------------------


def written(expert, sr, rounds):
    preset = load_preset(
        "paper",
        {"expert.tasks": expert, "sr.tasks": sr, "sr.rounds": rounds, "tasks.families": ["care", "conflict"]},
    )
    return Run(preset, "unused")


def test_written_tasks_take_turns_so_that_no_stage_plays_those_of_another_while_they_last():
    run = written(2, 1, 2)
    used = [(pi._EXPERT_TASKS, 2), (pi._OWN_TASKS + 1, 1), (pi._OWN_TASKS + 2, 1), (pi._FRESH_TASKS, 2)]
    chosen = [task.id for use, n in used for task in run.training_tasks(use, n, "conflict")]
    assert len(set(chosen)) == 6
    assert {task.split for task in run.training_tasks(pi._EXPERT_TASKS, 99, "conflict")} == {"train"}
    unseen = run.unseen_tasks()
    assert list(unseen) == ["unseen-wording"]
    assert {task.split for task in unseen["unseen-wording"]} == {"test"}


def test_tasks_of_two_and_of_three_seats_are_planned_checked_and_shown(micro, tmp_path):
    preset = load_preset(micro, {"tasks.families": ["bargain", "committee"]})
    planned = {step.stage: step.episodes for step in plan(preset).steps}
    assert planned["evaluation of bc"] == 2 * 3 * (2 + 3)  # kinds, partners, seats
    assert planned["samples"] == 2 * 6
    run = opened(preset, tmp_path)
    run.check()
    run._samples({})
    assert [len(sample["agents"]) for sample in read(tmp_path, "samples/expert.json")] == [2, 3]


def test_a_file_with_training_tasks_of_two_and_of_three_seats_is_refused(micro, tmp_path):
    kinds = ("bargain", "train"), ("committee", "train"), ("bargain", "test")
    file = tmp_path / "mixed.jsonl"
    write_tasks(file, [task for family, split in kinds for task in load_tasks(f"outcome/{family}", split=split, n=2)])
    preset = load_preset(micro, {"tasks.pack": str(file), "tasks.families": [], "tasks.unseen": {}})
    with pytest.raises(ConfigurationError, match="have 2 or 3 seats"):
        Run(preset, tmp_path / "run").run()
    assert not (tmp_path / "run").exists()


def test_a_file_of_tasks_that_has_changed_is_played_again_as_far_as_it_has(micro, tmp_path):
    file = tmp_path / "mine.jsonl"
    preset = load_preset(micro, {"tasks.pack": str(file), "tasks.families": [], "tasks.unseen": {}})

    def of(split, seed):
        return load_tasks("outcome/bargain", split=split, n=2, seed=seed)

    def lines(train, test):
        write_tasks(file, [*of("train", train), *of("test", test)])
        found = []
        run = opened(preset, tmp_path / "run", found.append)
        run._expert("expert", pi._EXPERT_TASKS)
        run._evaluate({})
        return found

    both = ["expert play", "evaluation of expert"]
    assert stages(lines(0, 0), "started") == both
    assert stages(lines(0, 0), "done before") == both
    assert stages(lines(0, 1), "its inputs have changed") == ["evaluation of expert"]
    assert stages(lines(1, 1), "its inputs have changed") == ["expert play"]
    evaluation = Evaluation.load(tmp_path / "run" / "evaluation.json")
    assert {play.task for plays in evaluation.plays.values() for play in plays} == {task.id for task in of("test", 1)}


def test_another_base_leaves_out_the_forced_row_of_the_presets_own():
    forced = load_preset("laptop").base.forced
    assert load_preset("laptop", {"base.model": "smollm2"}).base.forced == forced != ""
    assert load_preset("laptop", {"base.model": "a/b"}).base.forced == ""
    assert load_preset("laptop", {"base.model": "a/b", "base.forced": "scripted/soft"}).base.forced == "scripted/soft"


def test_casts_for_which_there_are_no_tasks_are_told(micro, tmp_path):
    lines = []
    Run(load_preset(micro, {"sr.tasks": 3, "sr.rounds": 2}), tmp_path, tell=lines.append).check()
    (line,) = lines
    assert line.startswith("sr.tasks: 3 of outcome/bargain are too few for all 4 casts")
    Run(load_preset(micro), tmp_path, tell=lines.append).check()
    assert len(lines) == 1


def test_the_trivial_policies_and_the_expert_stand_in_every_table():
    trivial = {"leave", "accept_anything", "accept_acceptable", "extreme"}
    for name in PRESETS:
        assert {"expert", *trivial} <= set(beside(load_preset(name)))
    other = load_preset("quick", {"expert.agent": "scripted/fair", "base.forced": "scripted/soft"})
    assert {"scripted/expert", "base, JSON forced"} <= set(beside(other))


# --- the plan -------------------------------------------------------------------------------------------


def test_the_plan_has_the_stages_and_episodes_of_the_run_and_about_its_tokens(finished, micro):
    planned = {step.stage: step for step in plan(load_preset(micro)).steps}
    done = read(finished, "manifest.json")["stages"]
    assert [name for name in planned if name != "samples"] == [n for n in done if not n.startswith("samples")]
    for name in ("expert play", "sr play", "bc+sr play"):
        assert planned[name].episodes == done[name]["statistics"]["episodes"]
    assert planned["evaluation of bc"].episodes == 2 * 2 * 3 * 2
    assert planned["samples"].episodes == 2 * 6
    for name in ("bc", "sr+bc", "base"):
        real = read(finished, f"training/{name}.json")
        tokens = real["tokens"] * (3 if name == "base" else 1)
        assert tokens / 3 < planned[name].training_tokens < tokens * 3


def test_hosted_models_are_priced_by_what_they_read_and_write():
    found = plan(load_preset("paper"))
    assert found.needs == ("a GPU", "OPENAI_API_KEY")
    play = next(step for step in found.steps if step.stage == "expert play")
    assert play.episodes == 48 * 10
    expert, judge = play.uses
    assert (expert.role, expert.model, judge.role) == ("expert", "openai/gpt-4o", "judge")
    for use, prompt, completion in ((expert, 2.5, 10.0), (judge, 2.5, 10.0)):
        assert use.dollars == pytest.approx((use.prompt_tokens * prompt + use.completion_tokens * completion) / 1e6)
        assert use.dollars > 0
    assert judge.calls == 2 * play.episodes  # once for each agent
    assert judge.completion_tokens == judge.calls * JUDGE_REPLY
    assert expert.prompt_tokens > 5 * expert.completion_tokens > 0
    partners = {use.model for step in found.steps for use in step.uses if use.role == "partner"}
    assert partners == {"openai/gpt-4o-mini", "openai/gpt-3.5-turbo", "openai/gpt-4.1-mini"}
    assert found.dollars == pytest.approx(sum(step.dollars for step in found.steps))
    assert found.minutes > 60
    assert found.training_tokens > 1e7


def test_processes_work_at_once_at_what_is_independent_and_share_evaluations(micro):
    rates = {"rates": {"train": 1000.0, "play": 100.0}}
    alone = plan(load_preset(micro, rates))
    shared = plan(load_preset(micro, {**rates, "processes": 2}))
    assert alone.minutes == pytest.approx(sum(step.minutes for step in alone.steps))
    assert [step.stage for step in shared.steps] == [step.stage for step in alone.steps]
    minutes = {step.stage: step.minutes for step in shared.steps}
    cloned = minutes["bc"] + minutes["bc+sr play"] + minutes["bc+sr"]
    other = minutes["sr play"] + minutes["sr"] + minutes["sr+bc"]
    evaluated = sum(value for stage, value in minutes.items() if stage.startswith("evaluation"))
    saved = min(cloned, other) + evaluated / 2
    assert shared.minutes == pytest.approx(alone.minutes - saved)
    assert plan(load_preset(micro, {"processes": 2})).minutes is None


def test_an_unknown_price_or_rate_is_none_and_never_zero(micro):
    found = plan(load_preset(micro, {"expert.agent": "openai/gpt-99?temperature=0.5"}))
    play = next(step for step in found.steps if step.stage == "expert play")
    assert play.dollars is None
    assert play.minutes is None
    assert found.dollars is None
    assert found.minutes is None
    assert found.unpriced == ("openai/gpt-99?temperature=0.5",)
    priced = {
        "expert.agent": "openai/gpt-99?temperature=0.5",
        "prices": {"openai/gpt-99": {"prompt": 1, "completion": 2}},
    }
    assert plan(load_preset(micro, priced)).dollars > 0
    assert plan(load_preset(micro)).dollars == 0  # scripted agents and this run's own policies are free


def test_a_local_model_takes_the_time_of_its_own_rate(micro):
    settings = {"base.forced": "local/smollm2?json=1", "rates": {"train": 1000.0, "play": 100.0}}
    assert plan(load_preset(micro, settings)).minutes is None
    found = plan(load_preset(micro, {**settings, "rates": {**settings["rates"], "local": 5.0}}))
    forced = next(step for step in found.steps if step.stage == "evaluation of base, JSON forced")
    assert forced.minutes == pytest.approx(forced.uses[0].completion_tokens / 5 / 60, rel=0.05)
    assert found.minutes > forced.minutes


def test_a_number_of_steps_bounds_the_training_tokens(micro):
    def tokens(**changes):
        found = plan(load_preset(micro, {f"bc.training.{name}": value for name, value in changes.items()}))
        return next(step.training_tokens for step in found.steps if step.stage == "bc")

    assert tokens() == pytest.approx(tokens(max_steps=8), rel=0.01)  # 16 rows, two a step
    assert tokens(max_steps=2) == pytest.approx(tokens() / 4, rel=0.01)
    assert tokens(max_steps=3, epochs=9) == tokens(max_steps=3)
    assert tokens(max_steps=1, gradient_accumulation=3) == tokens(max_steps=3)
    each = tokens(max_steps=1, form="prefix") / tokens(max_steps=1)  # one turn with all before it, not all of them
    assert 0.3 < each < 1.0


def test_rows_of_every_turn_cost_more_training_tokens_than_whole_conversations():
    conversation, paper = (plan(load_preset("paper", {"bc.training.form": form})) for form in ("conversation", "paper"))
    tokens = [
        next(step for step in found.steps if step.stage == "bc").training_tokens for found in (conversation, paper)
    ]
    assert 2 * tokens[0] < tokens[1]


def test_the_dry_run_needs_no_torch_no_key_and_leaves_nothing_behind(tmp_path):
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'trl', 'peft', 'datasets', 'accelerate', 'openai'):\n"
        "    sys.modules[name] = None\n"
        "from sotopia_env.cli import app\n"
        "app(['pi', '--preset', 'paper', '--dry-run', '--json', '--run', 'here'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["total"]["dollars"] > 0
    assert record["steps"][0]["stage"] == "expert play"
    assert list(tmp_path.iterdir()) == []


# --- the command ----------------------------------------------------------------------------------------


def command(*arguments, code=0):
    result = CliRunner().invoke(app, ["pi", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def test_the_command_prints_the_report_as_json_with_the_share_of_the_expert(copied, micro):
    result = command("--preset", micro, "--run", copied, "--json", "--quiet")
    assert result.stderr == ""
    record = json.loads(result.stdout)
    assert record["policies"] == read(copied)["policies"]
    goals = {(row["policy"], row["tasks"]): row["goal"]["mean"] for row in record["policies"]}
    share = record["share_of_expert"]["bc"]["seen-wording"]
    assert share == pytest.approx(goals["bc", "seen-wording"] / goals["expert", "seen-wording"], abs=1e-3)
    assert record["page"] == f"{copied}/report.html"


def test_options_of_the_command_change_the_preset(tmp_path):
    options = [
        "--expert",
        "scripted/fair",
        "--judge",
        "outcome",
        "--partner",
        "scripted/tough",
        "--tasks",
        "outcome/secret",
    ]
    options += ["--sr-partner", "self", "--rounds", "3", "--control", "--budget", "5m", "--set", "sr.repeats=4"]
    record = json.loads(command("--dry-run", "--json", *options).stdout)
    names = [step["stage"] for step in record["steps"]]
    assert {"bc+sr round 3 play", "fresh expert play", "control"} <= set(names)
    usual = load_preset("quick")
    assert "base" not in names  # it comes with the package
    assert record["steps"][0]["episodes"] == round(usual.expert.tasks * 5 / usual.minutes)  # one family, five minutes


def test_a_preset_that_is_no_utf8_text_is_named(tmp_path):
    (tmp_path / "latin.toml").write_bytes('description = "é"'.encode("latin-1"))
    with pytest.raises(ConfigurationError, match=r"latin.toml' cannot be read as UTF-8 text"):
        load_preset(tmp_path / "latin.toml")


def test_errors_of_the_command_are_one_line(micro, tmp_path):
    for arguments in (["--preset", "quik"], ["--set", "x"], ["--budget", "soon"], ["--model", tmp_path / "nothing"]):
        result = command("--preset", micro, "--run", tmp_path / "run", *arguments, code=1)
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1
        assert result.stdout == ""
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "minutes"), [("30m", 30), ("1h", 60), ("90s", 1.5), ("45", 45), ("1h30m", 90), ("0.5h", 30)]
)
def test_a_budget_is_a_time(text, minutes):
    assert read_minutes(text) == pytest.approx(minutes)


@pytest.mark.parametrize("text", ["", "m", "soon", "3d", "-5m", "1e3"])
def test_a_budget_that_is_no_time_is_refused(text):
    with pytest.raises(ConfigurationError, match="is no time"):
        read_minutes(text)


def test_the_plan_says_what_is_changed_in_the_preset():
    out = command("--preset", "laptop", "--model", "a/b", "--budget", "10m", "--dry-run").stdout
    assert "Changed here: base.model = a/b, minutes = 10\n" in out
    assert "JSON forced" not in out
    assert "Changed here" not in command("--preset", "quick", "--dry-run").stdout


@pytest.mark.parametrize(("preset", "expert", "own"), [("quick", 7, 8), ("laptop", 7, 6), ("paper", 1, 1)])
def test_a_small_budget_leaves_no_partner_and_no_seat_out(preset, expert, own):
    small = load_preset(preset, budget=1e-3)
    assert (small.expert.tasks, small.sr.tasks) == (expert, own)


def test_a_budget_scales_the_tasks_and_nothing_else():
    usual = load_preset("quick")
    double = load_preset("quick", budget=2 * usual.minutes)
    assert double.expert.tasks == 2 * usual.expert.tasks
    assert double.sr.tasks == 2 * usual.sr.tasks
    assert double.evaluation == usual.evaluation


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("sr.rounds=2", "sr.rounds", 2),
        ("play.temperature = 0.5", "play.temperature", 0.5),
        ("sr.control=true", "sr.control", True),
        ("sr.partner=self", "sr.partner", "self"),
        ('sr.partner="self"', "sr.partner", "self"),
        ("expert.agent=openai/gpt-4o?temperature=0.5", "expert.agent", "openai/gpt-4o?temperature=0.5"),
        ('sr.partners=["a/b"]', "sr.partners", ["a/b"]),
        ('expert.filter={rule="paper-sr", share=0.3}', "expert.filter", {"rule": "paper-sr", "share": 0.3}),
    ],
)
def test_a_setting_is_a_name_and_a_toml_value_or_a_word(text, name, value):
    assert read_setting(text) == (name, value)


@pytest.mark.parametrize("text", ["x", "=3", "x=", 'x="open', "x=[1", "x=1\ny=2"])
def test_a_setting_of_another_form_is_refused(text):
    with pytest.raises(ConfigurationError, match="--set"):
        read_setting(text)


def test_tasks_are_a_pack_families_of_one_or_a_path(tmp_path):
    assert read_tasks([]) == {}
    assert read_tasks(["outcome/secret", "outcome/divide"])["tasks.families"] == ["secret", "divide"]
    assert read_tasks(["everyday"]) == {"tasks.pack": "everyday", "tasks.families": [], "tasks.unseen": {}}
    assert read_tasks([str(tmp_path / "mine.jsonl")])["tasks.pack"] == str(tmp_path / "mine.jsonl")
    for mixed in (["outcome", "everyday"], ["outcome", "outcome/secret"]):
        with pytest.raises(ConfigurationError, match="a run plays one pack"):
            read_tasks(mixed)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_that_comes_with_the_package_can_be_read_and_planned(name):
    preset = load_preset(name)
    assert plan(preset).episodes > 100
    assert len(preset.evaluation.partners) >= 3
    assert set(POLICIES) >= set(LABELS)


def test_the_paper_preset_has_the_settings_of_the_paper():
    preset = load_preset("paper")
    assert preset.base.model == "mistralai/Mistral-7B-Instruct-v0.1"
    for training, epochs in ((preset.bc.training, 20), (preset.sr.training, 5)):
        assert (training.method, training.rank, training.alpha, training.dropout) == ("qlora", 8, 16, 0.05)
        assert (training.learning_rate, training.schedule, training.warmup) == (5e-5, "cosine", 0.03)
        assert (training.batch_size, training.max_length, training.form) == (4, 4096, "paper")
        assert training.epochs == epochs
    assert preset.expert.filter == {"rule": "paper-bc", "keep": 2}
    assert preset.sr.filter == {"rule": "paper-sr", "share": 0.2}
    assert (preset.expert.partners, preset.sr.partner) == (("self",), "self")
    assert (preset.expert.repeats, preset.sr.repeats, preset.play.temperature) == (10, 10, 1.0)
