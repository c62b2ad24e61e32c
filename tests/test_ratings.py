"""Human ratings: two files that say the same, and every mistake in them named with its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sotopia_env import ConfigurationError
from sotopia_env.dimensions import DIMENSIONS
from sotopia_env.evaluation.ratings import KEYS, Rating, check_ratings, read_ratings

CSV = """\
episode,agent,rater,goal,secret,comment
abc,agent_0,anna,7,-2.5,"paid too much, but kept calm"
abc,agent_1,anna,,0,

abc,agent_0,bert,10,,
"""

JSONL = """\
{"episode": "abc", "agent": "agent_0", "rater": "anna", "scores": {"goal": 7, "secret": -2.5}, "comment": "x"}
{"episode": "abc", "agent": "agent_1", "rater": "anna", "scores": {"goal": null, "secret": 0}}

{"episode": "abc", "agent": "agent_0", "rater": "bert", "scores": {"goal": 10}}
"""

READ = [
    ("abc", "agent_0", "anna", {"goal": 7.0, "secret": -2.5}),
    ("abc", "agent_1", "anna", {"secret": 0.0}),
    ("abc", "agent_0", "bert", {"goal": 10.0}),
]


def write(folder: Path, text: str | bytes, name: str = "ratings.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param("ratings.csv", CSV, id="csv"),
        pytest.param("ratings.csv", "\ufeff" + CSV.replace("\n", "\r\n"), id="csv of a spreadsheet"),
        pytest.param("ratings.jsonl", JSONL, id="jsonl"),
        pytest.param("ratings.jsonl", "\ufeff" + JSONL, id="jsonl with a mark"),
    ],
)
def test_both_files_hold_the_same(tmp_path: Path, name: str, text: str) -> None:
    found = read_ratings(write(tmp_path, text, name))
    assert [rating[:4] for rating in found] == READ
    assert found[2].where == f"{tmp_path / name}, line {5 if name.endswith('csv') else 4}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", r"has the columns \[\], but needs", id="empty"),
        pytest.param("episode,agent,rater,goal\n", "holds no ratings", id="no rows"),
        pytest.param("episode,agent,goal\nabc,agent_0,7\n", r"needs \['episode', 'agent', 'rater'\]", id="no rater"),
        pytest.param("episode;agent;rater;goal\n", "separated by commas", id="semicolons"),
        pytest.param("episode,agent,rater,goals\n", "at least one of", id="no dimension"),
        pytest.param("episode,agent,rater,goal,belivability\n", "Did you mean 'believability'", id="unknown column"),
        pytest.param("episode,agent,rater,goal,goal\n", "two columns 'goal'", id="column twice"),
        pytest.param(
            "episode,agent,rater,goal\nabc,agent_0,anna,11\n",
            r"line 2: 'goal' must be in \[0, 10\], got 11",
            id="too high",
        ),
        pytest.param("episode,agent,rater,secret\nabc,agent_0,anna,1\n", r"'secret' must be in \[-10, 0\]", id="sign"),
        pytest.param(
            "episode,agent,rater,goal\nabc,agent_0,anna,nan\n", r"'goal' must be in \[0, 10\], got nan", id="nan"
        ),
        pytest.param(
            "episode,agent,rater,goal\nabc,agent_0,anna,seven\n", "'goal' must be a number, got 'seven'", id="word"
        ),
        pytest.param("episode,agent,rater,goal\nabc,agent_0,anna,1_0\n", "must be a number, got '1_0'", id="1_0"),
        pytest.param("episode,agent,rater,goal\nabc,agent_0,anna,\n", "line 2 has no score", id="no score"),
        pytest.param("episode,agent,rater,goal\nabc,agent_0, ,7\n", "line 2: 'rater' is ' '", id="blank rater"),
        pytest.param(
            "episode,agent,rater,goal\nabc,agent_0,anna\n", "there are 3 cells, but 4 columns", id="short row"
        ),
        pytest.param('episode,agent,rater,goal\n"abc,agent_0,anna,7\n', "no CSV", id="open quote"),
        pytest.param(
            "episode,agent,rater,goal\nabc,agent_0,anna,7\nabc,agent_0,anna,8\n",
            r"line 3: .* before \(.*line 2\)",
            id="twice",
        ),
        pytest.param(b"episode,agent,rater,goal\n\xff\xfe,agent_0,anna,7\n", "not UTF-8", id="not text"),
    ],
)
def test_a_csv_file_that_cannot_be_used_is_refused_and_says_where(
    tmp_path: Path, text: str | bytes, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        read_ratings(write(tmp_path, text))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        pytest.param("{", "line 1 is no JSON", id="no json"),
        pytest.param("[" * 100_000, "line 1 is no JSON", id="deep"),
        pytest.param("7", "must be an object", id="number"),
        pytest.param('{"scores": {"goal": 7, "goal": 3}}', "line 1: 'goal' is there twice", id="score twice"),
        pytest.param('{"rater": "anna", "rater": "bert"}', "line 1: 'rater' is there twice", id="rater twice"),
        pytest.param('{"episode": "abc"}', "must be an object with", id="no scores"),
        pytest.param({"scores": {"goal": True}}, "'goal' must be a number, got True", id="bool"),
        pytest.param({"scores": {"goal": "7"}}, "'goal' must be a number, got '7'", id="text"),
        pytest.param({"scores": {"goal": -1}}, r"'goal' must be in \[0, 10\], got -1", id="too low"),
        pytest.param({"scores": {"goal": 10**400}}, r"'goal' must be in \[0, 10\]", id="huge"),
        pytest.param({"scores": {"gaol": 7}}, "Did you mean 'goal'", id="unknown dimension"),
        pytest.param({"scores": {}}, "no score", id="empty"),
        pytest.param({"scores": {"goal": None}}, "no score", id="null"),
        pytest.param({"scores": {"goal": 7}, "raterr": "x"}, "Unknown field 'raterr'", id="unknown field"),
        pytest.param({"scores": {"goal": 7}, "agent": 0}, "'agent' is 0, but must be text", id="agent number"),
    ],
)
def test_a_json_line_that_cannot_be_used_is_refused(
    tmp_path: Path, line: str | dict[str, object], message: str
) -> None:
    whole = {"episode": "abc", "agent": "agent_0", "rater": "anna"}
    text = line if isinstance(line, str) else json.dumps({**whole, **line})
    with pytest.raises(ConfigurationError, match=message):
        read_ratings(write(tmp_path, text + "\n", "ratings.jsonl"))


def test_a_file_that_is_not_there_is_the_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_ratings(tmp_path / "none.csv")


AGENTS = {"abc1": ("agent_0", "agent_1"), "abc2": ("agent_0",), "d": ("agent_0",), "de": ("agent_0",)}


def rating(episode: str, agent: str = "agent_0", rater: str = "anna") -> Rating:
    return Rating(episode, agent, rater, {"goal": 7.0}, "ratings.csv, line 2")


def test_an_episode_may_be_named_by_the_beginning_of_its_id() -> None:
    found = check_ratings([rating("abc1"), rating("abc2"), rating("d", rater="bert"), rating("de")], AGENTS)
    assert [one.episode for one in found] == ["abc1", "abc2", "d", "de"]
    assert check_ratings([rating("abc2")], {"abc2345": ("agent_0",), "b": ("agent_0",)})[0].episode == "abc2345"


@pytest.mark.parametrize(
    ("ratings", "message"),
    [
        pytest.param([rating("xyz")], "line 2: episode 'xyz' is not among those that are audited", id="unknown"),
        pytest.param([rating("abc")], "episode 'abc' begins 2 ids", id="unclear"),
        pytest.param([rating("abc2", "agent_1")], "line 2: Unknown agent 'agent_1'", id="agent"),
        pytest.param([rating("abc1"), rating("abc1")], "before", id="twice"),
    ],
)
def test_ratings_of_what_is_not_there_are_refused(ratings: list[Rating], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        check_ratings(ratings, AGENTS)


def test_one_rater_counts_once_also_under_two_spellings_of_an_id() -> None:
    with pytest.raises(ConfigurationError, match="before"):
        check_ratings([rating("abc2345"), rating("abc2")], {"abc2345": ("agent_0",)})


@given(st.binary(max_size=200), st.sampled_from(["ratings.csv", "ratings.jsonl"]))
def test_any_bytes_are_ratings_in_range_or_one_clear_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, name: str
) -> None:
    head = (",".join([*KEYS, "goal"]) + "\n").encode() if name.endswith("csv") else b""
    path = write(tmp_path_factory.mktemp("ratings"), head + data, name)
    scales = {dimension.name: dimension for dimension in DIMENSIONS}
    try:
        found = read_ratings(path)
    except ConfigurationError:
        return
    assert found
    assert all(scales[d].low <= score <= scales[d].high for one in found for d, score in one.scores.items())
