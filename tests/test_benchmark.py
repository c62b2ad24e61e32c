"""The benchmark: a protocol whose hash sees every change, results that repeat byte for byte, a page that is safe."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import suppress
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import sotopia_env
from sotopia_env import Action, Budget, BudgetError, ConfigurationError, StoreError, chat
from sotopia_env.agents import LLMAgent
from sotopia_env.cli import app
from sotopia_env.evaluation import benchmark
from sotopia_env.evaluation.benchmark import load_results, make_protocol, run_benchmark
from sotopia_env.evaluation.comparison import compare
from sotopia_env.evaluation.leaderboard import escaped, render_html, tables, write_leaderboard
from sotopia_env.judges import llm
from sotopia_env.judges.llm import LLMJudge
from sotopia_env.loopback import LoopbackServer
from sotopia_env.models import ScriptedModel
from sotopia_env.tasks import digest, load_tasks

SHARED = Path(__file__).parents[2] / "shared" / "data" / "sotopia"
POLICIES = {"fair": "scripted/fair", "soft": "scripted/soft"}
RUN = "from sotopia_env.cli import main; main()"
LEAVES = json.dumps({"action_type": "leave", "argument": ""})


def quick(**options):
    return make_protocol(["outcome"], **{"tasks_per_section": 6, **options})


@pytest.fixture(scope="module")
def results():
    return run_benchmark(POLICIES, quick())


@pytest.fixture
def saved(results, tmp_path):
    path = tmp_path / "a.json"
    results.save(path)
    return path


def generous(name="generous"):
    reply = json.dumps({d.name: {"reason": "Turn 1.", "score": d.high} for d in sotopia_env.DIMENSIONS})
    return LLMJudge(ScriptedModel(lambda messages: reply), name=name)


# --- repeating it -----------------------------------------------------------------------------------


def test_the_same_benchmark_twice_gives_the_same_bytes_and_dates_go_to_a_file_beside(saved, results, tmp_path):
    again = run_benchmark(POLICIES, quick(), concurrency=3)
    beside = again.save(tmp_path / "b.json")
    assert saved.read_bytes() == (tmp_path / "b.json").read_bytes()
    text = saved.read_text()
    assert text.isascii()
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":")) + "\n"
    for word in ("started_at", "seconds", results.timings["started_at"][:10]):
        assert word not in text
    timings = json.loads(beside.read_text())
    assert timings.keys() >= {"started_at", "seconds", "results_sha256"}
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.json", "a.timings.json", "b.json", "b.timings.json"
    ]  # fmt: skip


def test_another_process_with_other_hash_seeds_gives_the_same_bytes(saved, tmp_path):
    command = [sys.executable, "-c", RUN]
    command += ["benchmark", "--section", "outcome", "--tasks", "6", "-q", "--output", str(tmp_path / "c.json")]
    command += [f"--policy={label}={spec}" for label, spec in POLICIES.items()]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": "7"}, stdout=subprocess.DEVNULL)
    assert (tmp_path / "c.json").read_bytes() == saved.read_bytes()


def test_episodes_out_of_a_store_give_the_same_bytes(saved, tmp_path):
    for _ in range(2):
        again = run_benchmark(POLICIES, quick(), store=tmp_path / "runs.db")
    assert again.text() == saved.read_text()


def test_a_results_file_is_read_back_as_it_was_saved(saved, results):
    read = load_results(saved)
    assert read.text() == results.text()
    assert list(read.policies) == ["fair", "soft"]
    assert read.evaluations["outcome"].plays == results.evaluations["outcome"].plays
    assert read.complete


def test_the_file_says_what_is_needed_to_repeat_it(saved):
    record = json.loads(saved.read_text())
    assert record["code"]["version"] == sotopia_env.__version__
    assert re.fullmatch("[0-9a-f]{40}", record["code"]["hash"])
    protocol = record["protocol"]
    assert protocol["version"] == benchmark.PROTOCOL_VERSION
    assert (protocol["seed"], protocol["temperature"], protocol["max_turns"]) == (0, 0.7, 20)
    section = protocol["sections"]["outcome"]
    assert section["judge"] == "outcome"
    assert section["partners"] == ["scripted/stubborn", "scripted/deceptive", "scripted/tough"]
    assert record["policies"][0] == {"label": "fair", "agent": "scripted/fair", "spec": "scripted/fair"}
    values = record["sections"]["outcome"]["values"]["fair"]["outcome"]
    assert len(values["measures"]["goal"]) == 6 * 3 * 2
    assert set(record["not_run"]) == {"everyday", "everyday-hard", "sotopia-hard"}


# --- the protocol -----------------------------------------------------------------------------------


def test_the_hash_is_the_same_every_time_and_another_with_any_other_option():
    whole = quick().hash
    assert quick().hash == whole
    others = [
        quick(tasks_per_section=7),
        quick(seed=1),
        quick(repeats=2),
        quick(temperature=1.0),
        quick(temperature=None),
    ]
    hashes = {protocol.hash for protocol in others}
    assert len(hashes) == len(others)
    assert whole not in hashes


def test_a_changed_word_in_a_task_changes_the_hash(monkeypatch):
    before = quick().hash
    original = benchmark.load_tasks

    def changed(*arguments, **options):
        first, *others = original(*arguments, **options)
        return [first.model_copy(update={"scenario": first.scenario + " It rains."}), *others]

    monkeypatch.setattr(benchmark, "load_tasks", changed)
    assert quick().hash != before


@pytest.mark.parametrize("place", ["REPLY_RULES", "RETRY"])
def test_a_changed_prompt_of_the_policies_changes_the_hash(monkeypatch, place):
    before = quick().hash
    monkeypatch.setattr(chat, place, getattr(chat, place) + " Be brief.")
    assert quick().hash != before


def test_a_changed_telling_of_events_changes_the_hash(monkeypatch):
    before = quick().hash
    original = chat._line
    monkeypatch.setattr(chat, "_line", lambda *a: original(*a).replace("[action]", "[deed]"))
    assert quick().hash != before


def test_a_changed_judge_prompt_or_partner_changes_the_hash(monkeypatch):
    def everyday(**options):
        return make_protocol(
            ["everyday-hard"], **{"judge": generous(), "partners": ["scripted/fair"], "tasks_per_section": 2, **options}
        )

    before = everyday().hash
    assert everyday().hash == before
    assert everyday(partners=["scripted/tough"]).hash != before
    assert everyday(judge=generous("other")).hash != before
    monkeypatch.setattr(llm, "REQUEST", llm.REQUEST.replace("whole number", "number"))
    assert everyday().hash != before


def test_the_written_sections_need_a_judge_and_a_partner_and_are_named_if_they_cannot_be_run():
    protocol = make_protocol(tasks_per_section=2)
    assert list(protocol.parts) == ["outcome"]
    for name in ("everyday", "everyday-hard", "sotopia-hard"):
        assert "needs a judge and a partner" in protocol.not_run[name]
        assert "\n" not in protocol.not_run[name]
        with pytest.raises(ConfigurationError, match=f"Section '{name}' has no computed outcomes"):
            make_protocol([name])


def test_sotopias_hard_list_says_in_one_line_that_it_is_not_available(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    arguments = {"judge": generous(), "partners": ["scripted/fair"], "sotopia": tmp_path / "nowhere"}
    protocol = make_protocol(tasks_per_section=1, **arguments)
    assert list(protocol.parts) == ["outcome", "everyday", "everyday-hard"]
    assert protocol.not_run["sotopia-hard"].startswith("Section 'sotopia-hard' is not available: ")
    with pytest.raises(ConfigurationError, match="is not available") as caught:
        make_protocol(["sotopia-hard"], **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not SHARED.is_dir(), reason="SOTOPIA's data is not at ../shared/data")
def test_sotopias_hard_list_is_played_from_a_path():
    protocol = make_protocol(
        ["sotopia-hard"], judge=generous(), partners=["scripted/soft"], sotopia=SHARED, tasks_per_section=2
    )
    found = run_benchmark({"fair": "scripted/fair"}, protocol)
    assert found.complete
    assert found.evaluations["sotopia-hard"].estimate("fair", "overall").mean == pytest.approx(40 / 7, abs=1e-4)
    whole = make_protocol(["sotopia-hard"], judge=generous(), partners=["scripted/soft"], sotopia=SHARED)
    assert len(whole.parts["sotopia-hard"].tasks) == 70


def test_everyday_scenes_are_played_and_judged_by_the_model_judge():
    protocol = make_protocol(
        ["everyday", "everyday-hard"], judge=generous(), partners=["scripted/soft"], tasks_per_section=2
    )
    found = run_benchmark({"fair": "scripted/fair"}, protocol)
    assert found.complete
    assert {n: e.estimate("fair").mean for n, e in found.evaluations.items()} == {"everyday": 10, "everyday-hard": 10}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sections": ["outcom"]}, "Did you mean 'outcome'"),
        ({"sections": []}, "sections is empty"),
        ({"repeats": 0}, "repeats is 0"),
        ({"tasks_per_section": 0}, "tasks_per_section is 0"),
        ({"seed": "x"}, "seed is 'x'"),
        ({"temperature": -1}, "temperature is -1"),
        ({"temperature": float("nan")}, "temperature is nan"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        make_protocol(**{"sections": ["outcome"], **options})


def test_models_play_at_the_protocols_temperature_and_length():
    fixed = benchmark.fixed
    assert fixed("openai/gpt-4o", 0.7, 512) == "openai/gpt-4o?max_tokens=512&temperature=0.7"
    assert fixed("openai/o9?max_completion_tokens=900", None, 512) == "openai/o9?max_completion_tokens=900"
    assert fixed("local/smollm2?temperature=0.7&json=1", 0.7, 512) == (
        "local/smollm2?json=1&max_tokens=512&temperature=0.7"
    )
    assert fixed("hf/runs/bc", 0.0, 9) == "hf/runs/bc?max_tokens=9&temperature=0"
    assert fixed("scripted/fair", 0.7, 512) == "scripted/fair"
    assert fixed("hf/runs/bc?temperature=1.0", 1.0, 9) == "hf/runs/bc?max_tokens=9&temperature=1"
    with pytest.raises(ConfigurationError, match=r"--temperature 1\.5"):
        fixed("openai/gpt-4o?temperature=1.5", 0.7, 512)


# --- models -------------------------------------------------------------------------------------------


def test_models_are_recorded_as_their_endpoint_calls_them_also_when_a_run_goes_on(tmp_path):
    with LoopbackServer(LEAVES) as server:
        for _ in range(2):  # the second time nobody is asked
            protocol = quick(tasks_per_section=2, temperature=0.0)
            asked = server.requests
            found = run_benchmark(
                {"m": "openai/served"}, protocol, store=tmp_path / "runs.db", base_url=server.base_url
            )
        assert server.requests == asked
        sent = server.bodies[0]
    name = "openai/served?max_tokens=512&temperature=0"
    assert found.served == {name: ["served"]}
    assert found.policies == {"m": {"agent": name, "spec": "openai/served"}}
    assert (sent["temperature"], sent["max_tokens"]) == (0.0, 512)


def test_a_budget_stops_a_benchmark_which_then_goes_on(tmp_path):
    with LoopbackServer(LEAVES) as server:
        protocol = quick(tasks_per_section=2)
        options = {"store": tmp_path / "runs.db", "base_url": server.base_url}
        with Budget(tokens=10**6) as budget:
            undisturbed = run_benchmark({"m": "openai/m"}, protocol, base_url=server.base_url)
        whole, requests = budget.spent.tokens, server.requests
        assert undisturbed.timings["spent"][0]["tokens"] == whole
        with Budget(tokens=whole - 1) as budget, pytest.raises(BudgetError):
            run_benchmark({"m": "openai/m"}, protocol, **options)
        first = budget.spent.tokens
        assert 0 < first < whole
        with Budget(tokens=10**6) as budget:
            found = run_benchmark({"m": "openai/m"}, protocol, **options)
        assert first + budget.spent.tokens == whole
        assert server.requests == 2 * requests
    assert found.text() == undisturbed.text()


def test_an_estimate_asks_nobody_and_names_what_has_no_price():
    nowhere = "http://127.0.0.1:9/v1"
    protocol = make_protocol(
        ["outcome", "everyday"], judge="openai/j", partners=["openai/p"], tasks_per_section=2, base_url=nowhere
    )
    uses = benchmark.estimate(
        {"m": "openai/m", "s": "scripted/fair", "l": "local/x"}, protocol, {"openai/m": sotopia_env.budgets.Price(1, 2)}
    )
    roles = {(use.section, use.role) for use in uses}
    assert ("outcome", "policy m") in roles
    assert ("everyday", "judge") in roles
    assert not any(use.role == "policy s" for use in uses)
    by = {(use.section, use.role): use for use in uses}
    mine = by["outcome", "policy m"]
    assert mine.calls == 2 * 3 * 2 * 10
    assert mine.dollars == pytest.approx((mine.prompt_tokens + 2 * mine.completion_tokens) / 1e6)
    assert by["everyday", "judge"].dollars is None
    assert by["everyday", "policy l"].dollars == 0
    # A policy against one partner: each sits in both seats, and a judge scores both.
    assert by["everyday", "judge"].calls == protocol.episodes(3)["everyday"] * 2


def test_an_estimate_of_tokens_is_near_what_talks_to_the_turn_limit_take():
    words = " ".join(["word"] * 40)

    class Talker:
        name = "talker"

        def __init__(self):
            self.model = ScriptedModel(lambda messages: json.dumps({"action_type": "speak", "argument": words}))
            self.agent = LLMAgent(self.model)

        async def act(self, observation):
            return await self.agent.act(observation)

    talker = Talker()
    protocol = quick(tasks_per_section=6)
    part = protocol.parts["outcome"]
    sotopia_env.rollout(part.tasks, [talker, talker])
    asked = talker.model.calls
    (use,) = benchmark.estimate({"m": "openai/m"}, protocol)
    per_call = sum(len(message["content"]) for call in asked for message in call) / len(asked) / 4
    assert use.prompt_tokens / use.calls == pytest.approx(per_call, rel=0.1)


def rehashed(record, change):
    """A protocol that was changed by somebody who knows how to make its hash fit."""
    protocol = record["protocol"]
    change(protocol)
    del protocol["hash"]
    protocol["hash"] = digest(protocol)


# --- files that are none ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(format="other"), "is no benchmark's"),
        (lambda r: r.update(format_version=2), "format version 2"),
        (lambda r: r["protocol"].update(seed=1), "does not fit its hash"),
        (lambda r: r.pop("sections"), "is damaged"),
        (lambda r: r["sections"].clear(), "not those of its protocol"),
        (lambda r: r["sections"]["outcome"]["settings"].update(judge="other"), "not played as its protocol says"),
        (lambda r: r["policies"].pop(), "does not hold the policies"),
        (lambda r: r["sections"]["outcome"]["values"]["fair"]["outcome"].pop("task"), "no record of an evaluation"),
        (lambda r: r.update(policies=3), "is damaged"),
        (lambda r: rehashed(r, lambda p: p["sections"]["outcome"].update(tasks_hash=5)), "'tasks_hash' is of another"),
        (lambda r: rehashed(r, lambda p: p["sections"]["outcome"].update(partners=[5])), "is damaged"),
        (lambda r: rehashed(r, lambda p: p.pop("seed")), "is damaged"),
    ],
)
def test_a_file_that_was_edited_or_is_something_else_is_refused_in_one_line(saved, change, message):
    record = json.loads(saved.read_text())
    change(record)
    saved.write_text(json.dumps(record))
    with pytest.raises(StoreError, match=message) as caught:
        load_results(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": NaN}', "[" * 100_000, '"x"', "\x00"])
def test_other_text_is_refused_in_one_line(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(StoreError) as caught:
        load_results(path)
    assert "\n" not in str(caught.value)


def test_a_judge_of_somebody_elses_may_have_another_scale_of_that_name(saved):
    record = json.loads(saved.read_text())
    rehashed(record, lambda p: p["sections"]["outcome"].update(judge="mine"))
    record["sections"]["outcome"]["settings"]["judge"] = "mine"
    row(record)["measures"]["goal"][0] = 88
    saved.write_text(json.dumps(record))
    assert (
        max(play.measures["goal"] for play in load_results(saved).evaluations["outcome"].plays["fair", "outcome"]) == 88
    )


def test_numbers_that_are_not_finite_are_refused(saved):
    text = saved.read_text()
    saved.write_text(re.sub(r'"goal":\[[^,]+,', '"goal":[1e999,', text))
    with pytest.raises(StoreError, match="not finite"):
        load_results(saved)


def row(record):
    return record["sections"]["outcome"]["values"]["fair"]["outcome"]


def without_failures_of_its_own(record):
    """As somebody would who wants to look better than it is."""
    kept = [place for place, goal in enumerate(row(record)["measures"]["goal"]) if goal > 5]
    for columns in (row(record), row(record)["measures"]):
        for name in ("task", "partner", "seat", "repeat", *row(record)["measures"]):
            if name in columns:
                columns[name] = [columns[name][place] for place in kept]


IMPOSSIBLE = [
    (lambda r: row(r)["measures"]["goal"].__setitem__(0, 1e308), r"'goal' 1e\+308, out of \[0, 10\]"),
    (lambda r: row(r)["measures"]["goal"].__setitem__(0, 10**400), "no record of an evaluation"),
    (lambda r: row(r)["measures"]["goal"].__setitem__(0, 1_000_000), r"out of \[0, 10\]"),
    (lambda r: row(r)["measures"]["goal"].__setitem__(0, True), "no record of an evaluation"),
    (lambda r: row(r)["measures"]["welfare"].__setitem__(0, 1e300), "'welfare' 1e"),
    (lambda r: row(r)["measures"]["agreement"].__setitem__(0, 2), r"'agreement' 2.0, out of \[0, 1\]"),
    (lambda r: row(r)["measures"]["goal"].pop(), "no record of an evaluation"),
    (lambda r: row(r)["tasks"][0].__setitem__(0, ["a"]), "no record of an evaluation"),
    (lambda r: row(r)["seat"].__setitem__(0, [0]), "no record of an evaluation"),
    (lambda r: row(r)["task"].__setitem__(0, -1), "no record of an evaluation"),
    (lambda r: row(r)["task"].__setitem__(0, 99), "no record of an evaluation"),
    (lambda r: row(r)["failures"].update(failed="none"), "no record of an evaluation"),
    (lambda r: row(r)["failures"].update(messages={"x": "y"}), "no record of an evaluation"),
    (lambda r: row(r)["failures"].update(episodes=40), "different numbers of episodes"),
    (lambda r: row(r).update(seat=[0] * 36), "one play twice"),
    (lambda r: row(r)["repeat"].__setitem__(0, 1), "that its protocol does not have"),
    (lambda r: row(r)["partners"].__setitem__(0, "scripted/leave"), "that its protocol does not have"),
    (without_failures_of_its_own, "policy 'fair' in section 'outcome' has .* plays and 0 that failed, of 36"),
    (lambda r: r["sections"]["outcome"]["settings"].update(policies=5), "no record of an evaluation"),
    (lambda r: r["sections"]["outcome"]["settings"].pop("policies"), "no record of an evaluation"),
    (lambda r: r["sections"]["outcome"]["settings"].update(tasks=5), "no record of an evaluation"),
    (lambda r: r["sections"]["outcome"]["settings"]["policies"].update(fair="openai/x"), "not played by the policies"),
    (lambda r: r.update(served={"outcome": "abc"}), "is damaged"),
    (lambda r: r["policies"].append(r["policies"][0]), "two of its policies have the same label"),
    (lambda r: r["policies"][0].update(label=["fair"]), "is damaged"),
]


@pytest.mark.parametrize(("change", "message"), IMPOSSIBLE)
def test_a_file_with_what_no_run_can_come_to_is_refused_in_one_line(saved, change, message):
    record = json.loads(saved.read_text())
    change(record)
    saved.write_text(json.dumps(record))
    with pytest.raises(StoreError, match=message) as caught:
        load_results(saved)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500 + len(str(saved))


def places(value, where=()):
    """The way to every value of a record."""
    yield where
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*where, key))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.sampled_from([-1, 0, 1, 2, 11, 36, 10**6, 10**400, 0.5, -0.1, 1e308])
    | st.sampled_from(["", "fair", "soft", "outcome", "abc"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["outcome", "x"]), inner, max_size=2),
    max_leaves=3,
)


@given(st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_with_one_damaged_value_is_read_or_refused_in_one_line(saved, results, data):
    record = json.loads(results.text())
    everywhere = list(places(record))[1:]
    deep = data.draw(st.integers(1, max(map(len, everywhere))))  # most values are numbers of plays, deep below
    *way, last = data.draw(st.sampled_from([where for where in everywhere if len(where) == deep]))
    holder = record
    for key in way:
        holder = holder[key]
    if data.draw(st.booleans()):
        holder[last] = data.draw(JSON)
    else:
        del holder[last]
    saved.write_text(json.dumps(record))
    try:
        read = load_results(saved)
    except (StoreError, ConfigurationError) as error:
        assert "\n" not in str(error)  # noqa: PT017
        return
    read.text()
    tables([saved])
    with suppress(ConfigurationError):
        compare([read, results], names=["a.json", "b.json"], measures=["goal", "welfare", "turns"])


# --- the leaderboard ----------------------------------------------------------------------------------

HOSTILE = "<script>alert(1)</script>|`x` [a](javascript:b) &amp; \x1b[31m\u202e\n# h"


class Reader(HTMLParser):
    """Which elements and attributes a page has, and its text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.text = set(), set(), ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text += data


def test_the_page_ranks_policies_by_goal_with_numbers_out_of_the_plays(saved, results, tmp_path):
    record = json.loads(saved.read_text())
    for row in record["sections"]["outcome"]["policies"]:
        row["goal"] = {"mean": 99.0}  # summaries in a file are not believed
    saved.write_text(json.dumps(record))
    written = write_leaderboard([saved], tmp_path / "board.html")
    page, markdown = (Path(written[kind]).read_text() for kind in ("html", "markdown"))
    assert "99.00" not in page + markdown
    means = {p: results.evaluations["outcome"].estimate(p).mean for p in POLICIES}
    ranked = sorted(means, key=lambda policy: -means[policy])
    (table,) = tables([saved])
    assert [row[1] for row in table.rows] == ranked
    assert table.rows[0][3] == results.evaluations["outcome"].estimate(ranked[0]).text()
    for text in (page, markdown):
        assert text.index(f"scripted/{ranked[0]}") < text.index(f"scripted/{ranked[1]}")
        assert results.protocol["hash"][:12] in text
        assert "Not run" in text


def test_the_page_is_the_same_for_the_same_files(saved, tmp_path):
    for name in ("a", "b"):
        write_leaderboard([saved], tmp_path / f"{name}.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert (tmp_path / "a.md").read_bytes() == (tmp_path / "b.md").read_bytes()


def test_hostile_names_are_text_and_nothing_else(tmp_path):
    class Agent:
        inline = True
        name = HOSTILE

        def act(self, observation):
            return Action("leave")

    protocol = quick(tasks_per_section=1)
    run_benchmark({HOSTILE: Agent()}, protocol).save(tmp_path / "h.json")
    run_benchmark({"plain": "scripted/leave"}, protocol).save(tmp_path / "p.json")
    plain = Reader(render_html(tables([tmp_path / "p.json"])))
    page = render_html(tables([tmp_path / "h.json"]))
    hostile = Reader(page)
    assert hostile.tags == plain.tags
    assert hostile.attributes == plain.attributes
    assert "script" not in hostile.tags
    assert "<script>alert(1)</script>" in hostile.text
    write_leaderboard([tmp_path / "h.json"], tmp_path / "h.html")
    markdown = (tmp_path / "h.md").read_text()
    row = next(line for line in markdown.splitlines() if line.startswith("| 1 |"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 12
    for text in (page, markdown):
        assert not {"\x1b", "\u202e"} & set(text)
    assert "<" not in markdown


@pytest.mark.parametrize("address", ["https://a.example", "www.a.example", "WWW.a.example", "see(www.a.example"])
def test_bare_addresses_do_not_become_links(address):
    assert not re.search(r"://|www\.", escaped(address), re.IGNORECASE)


@given(st.text())
def test_escaped_markdown_is_one_line_without_html(text):
    shown = escaped(text)
    assert shown.isprintable()
    assert not {"<", ">"} & set(shown)
    assert not re.search(r"(?<!\\)(?:\\\\)*[|`*\[\]]", shown)


def test_results_of_different_protocols_never_share_a_table(saved, tmp_path):
    run_benchmark({"fair": "scripted/fair"}, quick(seed=5)).save(tmp_path / "other.json")
    run_benchmark({"tough": "scripted/tough"}, quick()).save(tmp_path / "same.json")
    found = tables([saved, tmp_path / "other.json", tmp_path / "same.json"])
    assert sorted(len(table.rows) for table in found) == [1, 3]


def test_a_leaderboard_of_nothing_or_the_same_file_twice_is_refused_and_nothing_written(saved, tmp_path):
    with pytest.raises(ConfigurationError, match="no results files"):
        write_leaderboard([], tmp_path / "x.html")
    with pytest.raises(ConfigurationError, match="twice"):
        write_leaderboard([saved, saved], tmp_path / "x.html")
    with pytest.raises(ConfigurationError, match=r"\.html"):
        write_leaderboard([saved], tmp_path / "x.md")
    with pytest.raises(ConfigurationError, match="folder"):
        write_leaderboard([saved], tmp_path / "no" / "x.html")
    assert not list(tmp_path.glob("x.*"))


# --- the command line ---------------------------------------------------------------------------------


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_commands_work_together(tmp_path):
    for name, strategy in (("a", "fair"), ("b", "leave")):
        done = invoke(
            "benchmark", "--policy", f"{strategy}=scripted/{strategy}", "--tasks", 6, "-q", "--output",
            tmp_path / f"{name}.json",
        )  # fmt: skip
        assert done.exit_code == 0, done.output
        assert done.stderr.count("not run: ") == 3
    compared = invoke("compare", tmp_path / "a.json", tmp_path / "b.json", "--json")
    assert compared.exit_code == 0, compared.output
    (one,) = json.loads(compared.stdout)["comparisons"]
    assert (one["policy"], one["baseline"], one["differs"]) == ("leave", "fair", True)
    assert one["difference"]["mean"] < 0
    shown = invoke("compare", tmp_path / "a.json", tmp_path / "b.json")
    assert "p (Holm)" in shown.stdout
    board = invoke("leaderboard", tmp_path / "a.json", tmp_path / "b.json", "--output", tmp_path / "board.html")
    assert board.exit_code == 0, board.output
    assert (tmp_path / "board.md").is_file()


def test_a_dry_run_starts_nothing(tmp_path):
    with LoopbackServer(LEAVES) as server:
        arguments = ["benchmark", "--policy", "m=openai/m", "--base-url", server.base_url, "--section", "outcome"]
        planned = invoke(*arguments, "--dry-run", "--json", "--price", "openai/m=1,2")
        assert planned.exit_code == 0, planned.output
        assert server.requests == 0
    record = json.loads(planned.stdout)
    assert record["episodes"] == {"outcome": 720}
    assert record["uses"][0]["calls"] == 7200
    assert record["dollars"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--section", "nowhere"], "Unknown section 'nowhere'"),
        (["--section", "everyday"], "needs a judge and a partner"),
        (["--output", "x.txt"], "must end in .json"),
        (["--output", "nowhere/x.json"], "its folder must exist"),
        (["--temperature", "warm"], "--temperature is 'warm'"),
        (["--max-cost", "5"], "Give --store"),
        (["--price", "x"], "MODEL=PROMPT,COMPLETION"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_1(arguments, message):
    done = invoke("benchmark", "--policy", "scripted/fair", "--tasks", 1, "-q", *arguments)
    assert done.exit_code == 1
    lines = [line for line in done.stderr.splitlines() if not line.startswith("not run: ")]
    assert len(lines) == 1
    assert message in lines[0]


def test_an_incomplete_benchmark_has_exit_code_1_and_says_so(tmp_path):
    with LoopbackServer(LEAVES, faults={"500": 1.0}) as server:
        spec = "m=openai/m?max_retries=0"
        done = invoke(
            "benchmark", "--policy", spec, "--section", "outcome", "--tasks", 1, "-q", "--base-url", server.base_url
        )
    assert done.exit_code == 1
    assert "6 failed" in done.stderr


def test_the_published_results_are_whole_and_their_page_is_made_from_them(tmp_path):
    folder = Path(__file__).parent.parent / "benchmarks" / "results"
    read = load_results(folder / "social.json")
    assert read.complete
    assert read.protocol["tasks_per_section"] is None
    write_leaderboard([folder / "social.json"], tmp_path / "social.html")
    assert (tmp_path / "social.md").read_text() == (folder / "social.md").read_text()
    assert len(load_tasks("outcome", split="test", n=120)) == read.protocol["sections"]["outcome"]["tasks"]
