"""Self-reinforcement: rounds of play, filter, train, each from the policy before, and none of it done twice."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

import sotopia_env
from sotopia_env import Action, chat
from sotopia_env.agents.scripted import make as scripted
from sotopia_env.conversation import Conversation
from sotopia_env.errors import ConfigurationError
from sotopia_env.store import EpisodeStore
from sotopia_env.trainers.filters import Trajectory, make_filter, threshold

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")
pytest.importorskip("trl")
tokenizers = pytest.importorskip("tokenizers")

from sotopia_env.trainers import self_reinforcement as module  # noqa: E402
from sotopia_env.trainers.behavior_cloning import TrainSettings, train  # noqa: E402
from sotopia_env.trainers.self_reinforcement import self_reinforcement  # noqa: E402

TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
QUICK = TrainSettings(max_steps=2, batch_size=2, logging_steps=1, dtype="float32", learning_rate=1e-3)


@pytest.fixture(scope="module", autouse=True)
def small_and_single_threaded():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(chat, "REPLY_RULES", "Reply with JSON.")
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tasks():
    return sotopia_env.load_tasks("outcome/bargain", n=8)


@pytest.fixture(scope="module")
def base(tasks, tmp_path_factory):
    """A tiny random model with the tokens it needs for valid moves."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(tokenizers.models.BPE({token: n for n, token in enumerate(alphabet)}, []))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.add_special_tokens(["<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"])
    made.add_tokens(['{"action_type": "action", "argument": "offer 20"}'])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<|pad|>", eos_token="<|end|>", chat_template=TEMPLATE
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=4096,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    folder = tmp_path_factory.mktemp("models") / "base"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def speaker(base, tasks, tmp_path_factory):
    """The same model after it has learned to say one valid move."""
    episodes = []
    for task in tasks[:4]:
        conversation = Conversation(task, seed=0)
        while conversation.turn < 4:
            conversation.apply({conversation.movers[0]: Action("action", "offer 20")})
        episodes.append(
            sotopia_env.Episode(
                task=task, agents=dict.fromkeys(task.agents, "x"), seed=0, events=tuple(conversation.events)
            )
        )
    settings = TrainSettings(method="full", learning_rate=3e-2, max_steps=12, batch_size=4, dtype="float32")
    kept = [Trajectory(episode, agent) for episode in episodes for agent in episode.agents]
    return train(base, kept, tmp_path_factory.mktemp("policies") / "speaker", settings).output


class Learner:
    """Plays as a scripted agent under the name of a policy's folder."""

    inline = True

    def __init__(self, folder: str, strategy: str = "fair") -> None:
        self.name = f"learner {Path(folder).parent.name}"
        self.folder = folder
        self._agent = scripted(strategy)
        self.asked = 0

    def act(self, observation):
        self.asked += 1
        return self._agent.act(observation)


@pytest.fixture
def learners():
    made: list[Learner] = []

    def make(folder: str) -> Learner:
        made.append(Learner(folder))
        return made[-1]

    make.made = made
    return make


@pytest.fixture
def trained(monkeypatch):
    """What was trained on what: the calls of `train`, which are carried out."""
    calls = []

    def recorded(policy, kept, output, settings, **options):
        calls.append((str(policy), list(kept), settings))
        return train(policy, kept, output, settings, **options)

    monkeypatch.setattr(module, "train", recorded)
    return calls


def stored(folder: Path) -> list[sotopia_env.Episode]:
    with EpisodeStore(folder / "episodes.db", create=False) as store:
        return list(store.episodes())


# --- the rounds -------------------------------------------------------------------------------------------


def test_each_round_plays_its_own_tasks_with_what_the_round_before_trained(base, tasks, tmp_path, learners, trained):
    made = self_reinforcement(base, tasks, tmp_path, rounds=2, repeats=2, settings=QUICK, make=learners)
    assert [learner.folder for learner in learners.made] == [str(base), str(tmp_path / "round-1" / "policy")]
    assert [call[0] for call in trained] == [learner.folder for learner in learners.made]
    played = [{episode.task.id for episode in stored(tmp_path / f"round-{n}")} for n in (1, 2)]
    assert played == [{task.id for task in tasks[0::2]}, {task.id for task in tasks[1::2]}]
    assert [each.number for each in made] == [1, 2]
    assert [each.episodes for each in made] == [{"complete": 8}, {"complete": 8}]
    config = json.loads((made[1].training.output / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base)
    assert json.loads((tmp_path / "rounds.json").read_text()) == {"rounds": [each.record() for each in made]}


def test_in_self_play_the_best_of_both_seats_are_learned_from(base, tasks, tmp_path, learners, trained):
    (only,) = self_reinforcement(base, tasks[:3], tmp_path, repeats=5, settings=QUICK, make=learners)
    (_, kept, _) = trained[0]
    assert Counter(trajectory.agent for trajectory in kept) == {"agent_0": 3, "agent_1": 3}  # 20% of 5, a task and seat
    assert only.filter["trajectories"] == 30
    assert only.filter["kept"] == 6
    assert json.loads((tmp_path / "round-1" / "filter.json").read_text()) == only.filter


def test_in_a_pool_the_learner_takes_each_seat_equally_often_and_only_its_own_part_is_learned_from(
    base, tasks, tmp_path, learners, trained
):
    pool = ["scripted/soft", "scripted/tough"]
    (only,) = self_reinforcement(
        base, tasks, tmp_path, partner="pool", pool=pool, repeats=2, settings=QUICK, make=learners
    )
    casts_played = Counter(tuple(episode.agents.values()) for episode in stored(tmp_path / "round-1"))
    me = learners.made[0].name
    assert casts_played == {
        (me, "scripted/soft"): 4,
        ("scripted/soft", me): 4,
        (me, "scripted/tough"): 4,
        ("scripted/tough", me): 4,
    }
    (_, kept, _) = trained[0]
    assert kept
    assert {trajectory.episode.agents[trajectory.agent] for trajectory in kept} == {me}
    assert only.filter["dropped"]["another agent"] == 16


def test_a_filter_that_drops_none_moves_has_them_masked(base, tasks, tmp_path, learners, trained):
    self_reinforcement(base, tasks[:2], tmp_path, repeats=2, filter="released", settings=QUICK, make=learners)
    assert trained[0][2].keep_none is False


def test_filters_of_ones_own_are_taken(base, tasks, tmp_path, learners):
    def best(episodes, **options):
        return threshold(episodes, at_least=0.0, **options)

    (only,) = self_reinforcement(base, tasks[:2], tmp_path, repeats=2, filter=best, settings=QUICK, make=learners)
    assert only.filter["rule"].startswith("threshold(at_least=0")
    assert only.filter["kept"] == 8


@pytest.mark.parametrize("form", ["text", "mapping", "filter"])
def test_what_a_filter_says_itself_goes_before_what_the_run_says(base, tasks, tmp_path, learners, trained, form):
    spec = {
        "rule": "threshold",
        "at_least": 0.0,
        "reward": "financial_and_material_benefits",
        "learner": "scripted/fair",
    }
    text = "threshold?at_least=0.0&reward=financial_and_material_benefits&learner=scripted/fair"
    given = {"text": text, "mapping": spec, "filter": make_filter(spec)}[form]
    pool = ["scripted/fair"]
    (only,) = self_reinforcement(
        base, tasks[:2], tmp_path, partner="pool", pool=pool, filter=given, repeats=1, settings=QUICK, make=learners
    )
    assert only.filter["reward"]["of"] == "financial_and_material_benefits"
    assert {trajectory.episode.agents[trajectory.agent] for trajectory in trained[0][1]} == {"scripted/fair"}


def test_a_real_policy_plays_filters_and_trains(speaker, tasks, tmp_path):
    settings = TrainSettings(
        method="full", max_steps=2, batch_size=2, logging_steps=1, dtype="float32", learning_rate=1e-4
    )
    acting = {"temperature": 0.0, "max_tokens": 8, "dtype": "fp32"}
    made = self_reinforcement(
        speaker, tasks[:2], tmp_path, rounds=2, repeats=1, settings=settings, acting=acting, max_turns=4
    )
    for each in made:
        (episode,) = stored(tmp_path / f"round-{each.number}")
        assert {(event.action_type, event.argument) for event in episode.events} == {("action", "offer 20")}
        assert episode.agents["agent_0"] == each.learner
        assert each.training.data["target_tokens"] == 2 * 2 * 2  # two seats, two turns: the move and its end
    assert made[0].learner != made[1].learner
    assert made[1].training.base == str(made[0].training.output)


# --- going on ---------------------------------------------------------------------------------------------


def test_what_is_done_is_not_done_again(base, tasks, tmp_path, learners):
    first = self_reinforcement(base, tasks[:4], tmp_path, rounds=2, repeats=1, settings=QUICK, make=learners)
    again = self_reinforcement(base, tasks[:4], tmp_path, rounds=2, repeats=1, settings=QUICK, make=learners)
    assert again == first
    assert [each.training.is_new for each in again] == [False, False]
    assert [learner.asked > 0 for learner in learners.made] == [True, True, False, False]


def test_a_run_stopped_in_its_second_round_goes_on_there(base, tasks, tmp_path, learners, monkeypatch):
    whole = self_reinforcement(base, tasks[:4], tmp_path / "whole", rounds=2, repeats=1, settings=QUICK, make=learners)

    class Stopping(Learner):
        def act(self, observation):
            if "round-1" in self.folder and observation["turn"] > 2:
                raise KeyboardInterrupt
            return super().act(observation)

    with pytest.raises(KeyboardInterrupt):
        self_reinforcement(base, tasks[:4], tmp_path / "cut", rounds=2, repeats=1, settings=QUICK, make=Stopping)
    assert (tmp_path / "cut" / "round-1" / "policy").is_dir()
    assert not (tmp_path / "cut" / "rounds.json").exists()
    resumed = self_reinforcement(base, tasks[:4], tmp_path / "cut", rounds=2, repeats=1, settings=QUICK, make=learners)
    assert [each.training.is_new for each in resumed] == [False, True]
    names = [
        path / "round-2" / "policy" / "adapter_model.safetensors" for path in (tmp_path / "whole", tmp_path / "cut")
    ]
    assert names[0].read_bytes() == names[1].read_bytes()
    assert [each.filter for each in resumed] == [each.filter for each in whole]


# --- what does not fit ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "rounds is 0"),
        ({"repeats": 1.5}, "repeats is 1.5"),
        ({"partner": "friend"}, "Unknown partner 'friend'"),
        ({"partner": "pool"}, "the pool is empty"),
        ({"pool": ["scripted/fair"]}, "partner is 'self', but a pool is given"),
        ({"partner": "pool", "pool": ["scripted/nobody"]}, "Unknown strategy 'nobody'"),
        ({"filter": "paper-rs"}, "Unknown filter 'paper-rs'"),
        ({"judge": None}, "needs scores"),
        ({"partner": "pool", "pool": ["scripted/fair"] * 3}, "8 tasks are too few for 2 .* at least 12 are needed"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_played(base, tasks, tmp_path, learners, options, message):
    with pytest.raises(ConfigurationError, match=message):
        self_reinforcement(base, tasks, tmp_path, **{"rounds": 2, "settings": QUICK, "make": learners, **options})
    assert not learners.made
    assert not list(tmp_path.iterdir())


def test_all_weights_of_an_adapter_are_refused_before_anything_is_played(base, tasks, tmp_path, learners):
    (first,) = self_reinforcement(base, tasks[:2], tmp_path / "lora", repeats=1, settings=QUICK, make=learners)
    learners.made.clear()
    with pytest.raises(ConfigurationError, match=r"'full' trains all weights, but .* is an adapter"):
        self_reinforcement(
            first.training.output, tasks, tmp_path / "full", settings=TrainSettings(method="full"), make=learners
        )
    assert not learners.made
    assert not (tmp_path / "full").exists()


def test_a_filter_that_keeps_nothing_ends_the_run_and_leaves_the_episodes(base, tasks, tmp_path, learners):
    with pytest.raises(ConfigurationError, match="kept none of 8 trajectories"):
        self_reinforcement(
            base, tasks[:4], tmp_path, repeats=1, filter="threshold?at_least=11", settings=QUICK, make=learners
        )
    assert len(stored(tmp_path / "round-1")) == 4
    assert json.loads((tmp_path / "round-1" / "filter.json").read_text())["kept"] == 0
