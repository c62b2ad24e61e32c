"""From verdict to reward, in all three forms; and a judge that fails invents nothing."""

from __future__ import annotations

import asyncio
import math

import gymnasium
import pytest

import sotopia_env
from sotopia_env import Action, ConfigurationError, Dimension, JudgeError, Score, ScriptedJudge, Verdict, load_tasks
from sotopia_env.dimensions import DIMENSION_NAMES, DIMENSIONS, get_dimensions, overall

SEVEN_AND_THREE = {"agent_0": {"goal": 7}, "agent_1": {"goal": 3}}


def full(goal: float) -> dict[str, float]:
    """All seven dimensions, with distinct values so that a mix-up shows."""
    return {name: d.low + 1.0 for name, d in zip(DIMENSION_NAMES, DIMENSIONS, strict=True)} | {"goal": goal}


def finish(env):
    """Both agents leave: the shortest episode there is."""
    env.reset(seed=0)
    result = None
    while env.agents:
        result = env.step({agent: Action("leave") for agent in env.agents})
    return result


def test_a_judges_seven_and_three_are_the_rewards_of_the_last_step_and_stand_in_the_episode():
    env = sotopia_env.parallel_env(judge=ScriptedJudge(SEVEN_AND_THREE))
    env.reset(seed=0)
    _, rewards, *_ = env.step({"agent_0": Action("speak", "hello")})
    assert rewards == {"agent_0": 0.0, "agent_1": 0.0}
    _, rewards, terminations, _, infos = env.step({"agent_1": Action("leave")})
    assert rewards == {"agent_0": 7.0, "agent_1": 3.0}
    assert all(type(reward) is float for reward in rewards.values())
    assert terminations == {"agent_0": True, "agent_1": True}
    assert infos["agent_0"]["scores"] == {"goal": 7.0}
    assert infos["agent_1"]["scores"] == {"goal": 3.0}
    assert infos["agent_0"]["ended_by"] == "departure"
    episode = env.episode()
    assert episode.status == "complete"
    assert episode.rewards == {"agent_0": 7.0, "agent_1": 3.0}
    assert episode.verdicts["scripted"].values("agent_1") == {"goal": 3.0}


def test_the_aec_and_single_forms_pay_the_same():
    aec = sotopia_env.env(judge=ScriptedJudge(SEVEN_AND_THREE))
    aec.reset(seed=0)
    aec.step(Action("leave"))
    paid = {}
    for agent in aec.agent_iter():
        paid[agent] = aec.last()[1]
        aec.step(None)
    assert paid == {"agent_0": 7.0, "agent_1": 3.0}
    single = gymnasium.make(
        "sotopia_env/Social-v0", partner=Leaver(), judge=ScriptedJudge(SEVEN_AND_THREE), seat=1
    ).unwrapped
    single.reset(seed=0)
    _, reward, terminated, truncated, info = single.step(Action("none"))
    assert (reward, terminated, truncated) == (3.0, True, False)
    assert info["scores"] == {"goal": 3.0}


class Leaver:
    name = "leaver"

    def act(self, observation):
        return Action("leave")


@pytest.mark.parametrize(
    ("reward", "expected"),
    [
        ("goal", 7.0),
        ("secret", -9.0),
        ("overall", (1 - 4 + 1 - 9 - 9 - 4 + 7) / 7),
        ({"goal": 0.5, "secret": 2.0}, 0.5 * 7 + 2 * -9),
        (lambda scores: scores["goal"] - scores["knowledge"], 6.0),
    ],
    ids=["dimension", "negative-dimension", "overall", "weights", "callable"],
)
def test_rewards_follow_from_scores_as_documented(reward, expected):
    judge = ScriptedJudge({"agent_0": full(7), "agent_1": full(3)})
    _, rewards, *_ = finish(sotopia_env.parallel_env(judge=judge, reward=reward))
    assert rewards["agent_0"] == pytest.approx(expected)


def test_without_a_judge_rewards_are_zero_and_the_episode_holds_none():
    env = sotopia_env.parallel_env(judge=None)
    _, rewards, _, _, infos = finish(env)
    assert rewards == {"agent_0": 0.0, "agent_1": 0.0}
    assert infos["agent_0"]["scores"] == {}
    assert env.episode().rewards == {}


def down(episode):
    raise JudgeError("the endpoint is down", reply="<html>502</html>")


class Broken:
    """A judge of somebody else's: whatever `result` is, it returns or raises it."""

    name = "broken"

    def __init__(self, result):
        self.result = result

    def score(self, episode):
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


class Slow:
    name = "slow"

    async def score(self, episode):
        async with asyncio.timeout(0.05):
            await asyncio.sleep(30)


FAILING = {
    "down": ScriptedJudge(down),
    "one-agent-missing": ScriptedJudge({"agent_0": {"goal": 7}}),
    "an-agent-too-many": ScriptedJudge({**SEVEN_AND_THREE, "agent_2": {"goal": 1}}),
    "needed-dimension-missing": ScriptedJudge({"agent_0": {"goal": 7}, "agent_1": {"secret": 0}}),
    "too-high": ScriptedJudge({"agent_0": {"goal": 11}, "agent_1": {"goal": 3}}),
    "too-low": ScriptedJudge({"agent_0": {"goal": 7}, "agent_1": {"goal": -0.1}}),
    "unknown-dimension": Broken(
        Verdict(judge="b", scores={a: {"charm": Score(value=1), "goal": Score(value=1)} for a in SEVEN_AND_THREE})
    ),
    "not-a-verdict": Broken({"goal": 7}),
    "nothing": Broken(None),
    "crashes": Broken(RuntimeError("boom")),
    "slow-past-its-limit": Slow(),
}


@pytest.mark.parametrize("judge", FAILING.values(), ids=FAILING)
def test_a_judge_that_fails_raises_and_the_episode_is_kept(judge):
    env = sotopia_env.parallel_env(judge=judge)
    with pytest.raises(JudgeError) as caught:
        finish(env)
    assert env.agents == []
    for episode in (env.episode(), caught.value.episode):
        assert episode.status == "judge_failed"
        assert episode.rewards == {}
        assert episode.verdicts == {}
        assert episode.ended_by == "departure"
        assert [event.action_type for event in episode.events] == ["leave"]


@pytest.mark.parametrize("judge", FAILING.values(), ids=FAILING)
def test_a_masked_judge_failure_is_nan_for_everybody_and_never_a_number(judge):
    env = sotopia_env.parallel_env(judge=judge, on_judge_error="mask")
    _, rewards, terminations, _, infos = finish(env)
    assert all(math.isnan(reward) for reward in rewards.values())
    assert all(terminations.values())
    assert infos["agent_0"]["judge_error"]
    assert "scores" not in infos["agent_0"]
    assert env.episode().rewards == {}


def test_infos_say_why_the_judge_failed_but_not_what_it_replied():
    env = sotopia_env.parallel_env(judge=ScriptedJudge(down), on_judge_error="mask")
    *_, infos = finish(env)
    assert infos["agent_0"]["judge_error"] == "JudgeError: the endpoint is down"


class Quoting:
    """Fails on what one seat alone knows, in words of an exception that is not the judge's own."""

    name = "quoting"
    dimensions = get_dimensions(["goal"])

    async def score(self, episode):
        raise ValueError(f"cannot read {episode.task.seats[0].private}")


@pytest.mark.parametrize("value", [11, 12])
def test_infos_of_a_failed_judge_do_not_hold_the_score_that_did_not_fit(value):
    judge = ScriptedJudge({"agent_0": {"goal": value}, "agent_1": {"goal": 3}})
    env = sotopia_env.parallel_env(judge=judge, on_judge_error="mask")
    *_, infos = finish(env)
    assert infos["agent_1"]["judge_error"].startswith("JudgeError: There is no usable verdict.")
    assert str(value) not in infos["agent_1"]["judge_error"]
    assert f"got {value}.0" in env.episode().error
    fresh = sotopia_env.parallel_env(judge=judge, on_judge_error="mask")
    fresh.restore(env.snapshot())
    assert fresh.episode().error == env.episode().error


def test_infos_of_a_failed_judge_do_not_hold_what_another_exception_says():
    env = sotopia_env.parallel_env("outcome/bargain", judge=Quoting(), on_judge_error="mask")
    *_, infos = finish(env)
    private = str(env.episode().task.seats[0].private)
    assert private in env.episode().error
    assert all(private not in info["judge_error"] for info in infos.values())


def test_overall_of_a_judge_with_scales_of_its_own_is_refused_with_what_it_scores():
    class Humour(Quoting):
        dimensions = (Dimension("humour", 0, 5, "how funny"),)

    with pytest.raises(ConfigurationError, match=r"mean of the seven.*judge 'quoting' scores \['humour'\]"):
        sotopia_env.parallel_env("everyday", judge=Humour(), reward="overall")


def test_the_aec_form_leaves_no_agent_behind_when_the_judge_fails():
    env = sotopia_env.env(judge=ScriptedJudge(down))
    env.reset(seed=0)
    with pytest.raises(JudgeError):
        env.step(Action("leave"))
    assert env.agents == []
    assert env.unwrapped.episode().status == "judge_failed"


@pytest.mark.parametrize(
    ("reward", "error"),
    [
        pytest.param(lambda scores: scores["charm"], "KeyError", id="callable-reads-a-missing-score"),
        pytest.param(lambda scores: float("inf"), "not a finite number", id="callable-gives-infinity"),
    ],
)
def test_a_reward_function_that_fails_is_a_judge_error_with_the_episode(reward, error):
    env = sotopia_env.parallel_env(judge=ScriptedJudge(SEVEN_AND_THREE), reward=reward)
    with pytest.raises(JudgeError, match=error) as caught:
        finish(env)
    assert caught.value.episode is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reward": "overall"}, r"cannot fill \['believability'"),
        ({"reward": "secret", "tasks": "outcome/secret"}, r"cannot fill \['secret'\]"),
        ({"reward": "gaol"}, "Did you mean 'goal'"),
        ({"reward": {"goal": 1, "charm": 1}}, "Unknown reward dimension 'charm'"),
        ({"reward": {}}, "at least one"),
        ({"reward": {"goal": float("nan")}}, "finite numbers"),
        ({"reward": 3}, "must be a dimension"),
        ({"judge": "outcome", "tasks": "everyday"}, "no rules that bind"),
        ({"judge": "oracle"}, "Unknown judge 'oracle'"),
        ({"judge": object()}, "is no judge"),
        ({"on_judge_error": "ignore"}, "Unknown on_judge_error 'ignore'"),
    ],
)
def test_what_a_judge_cannot_fill_is_refused_when_the_environment_is_made(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        sotopia_env.parallel_env(**arguments)


def test_financial_rewards_are_refused_only_where_a_task_leaves_them_undefined():
    tasks = load_tasks("outcome/bargain", n=60)
    zone = [task for task in tasks if sotopia_env.OutcomeJudge().covers(task) >= {"financial_and_material_benefits"}]
    assert 0 < len(zone) < 60
    sotopia_env.parallel_env(tasks=zone, reward="financial_and_material_benefits")
    with pytest.raises(ConfigurationError, match="financial"):
        sotopia_env.parallel_env(tasks=tasks, reward="financial_and_material_benefits")


def test_dimensions_of_the_users_own_are_checked_on_their_own_scale():
    charm = Dimension("charm", 1, 5, "How charming the participant was.")
    judge = ScriptedJudge({"agent_0": {"charm": 5}, "agent_1": {"charm": 1}}, dimensions=[charm])
    _, rewards, *_ = finish(sotopia_env.parallel_env(judge=judge, reward="charm"))
    assert rewards == {"agent_0": 5.0, "agent_1": 1.0}
    judge = ScriptedJudge({"agent_0": {"charm": 6}, "agent_1": {"charm": 1}}, dimensions=[charm])
    with pytest.raises(JudgeError, match=r"'charm' must be in \[1, 5\], got 6"):
        finish(sotopia_env.parallel_env(judge=judge, reward="charm"))


def test_the_seven_dimensions_have_the_ranges_of_sotopia_eval():
    assert [(d.name, d.low, d.high) for d in DIMENSIONS] == [
        ("believability", 0, 10),
        ("relationship", -5, 5),
        ("knowledge", 0, 10),
        ("secret", -10, 0),
        ("social_rules", -10, 0),
        ("financial_and_material_benefits", -5, 5),
        ("goal", 0, 10),
    ]
    for d in DIMENSIONS:
        covered = [value for first, last, _ in d.bands for value in range(first, last + 1)]
        assert covered == list(range(d.low, d.high + 1))


def test_an_overall_over_fewer_than_seven_is_an_error_not_another_mean():
    with pytest.raises(KeyError):
        overall({"goal": 7.0})


def test_an_unknown_dimension_names_the_nearest():
    with pytest.raises(ConfigurationError, match="Did you mean 'social_rules'"):
        get_dimensions(["social_rule"])
