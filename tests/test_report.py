"""The report shows what a run folder holds, names what it lacks, and nothing in it can act in a reader's browser."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from sotopia_env.cli import app
from sotopia_env.episodes import Episode, Event, Score, Verdict
from sotopia_env.errors import ConfigurationError, MissingExtraError
from sotopia_env.evaluation import report
from sotopia_env.evaluation.report import Run, read_run, render, write_report
from sotopia_env.tasks import CharacterProfile, Seat, Task
from sotopia_env.trainers.filters import paper_bc

pytest.importorskip("matplotlib")

HOSTILE = (
    "<script>alert(1)</script></style></title></textarea>--><img src=x onerror=alert(2)>"
    "\" onload='alert(3)' <a href=https://evil.example/>go</a> javascript:alert(4) $\\frac{$ {{7*7}} &lt;b&gt; &#60;i>"
    "\x00\x1b[31m\u202e\u2066\u200b\ud800 \u4f60\u597d \U0001f600"
)
BARE = "<svg onload=alert(5)>"

TAGS = {
    *("html", "head", "meta", "title", "style", "body", "header", "section", "h1", "h2", "h3", "p", "strong", "small"),
    *("span", "br", "ul", "li", "div", "details", "summary", "img", "table", "thead", "tbody", "tr", "th", "td"),
}
ATTRIBUTES = {"lang", "charset", "http-equiv", "content", "name", "class", "open", "src", "alt"}


# --- a run folder -------------------------------------------------------------------------------------


def estimate(mean: float, n: int = 6) -> dict[str, Any]:
    return {"mean": mean, "low": mean - 0.5, "high": mean + 0.5, "n": n, "tasks": 2}


def play(goal: float, said: str = "Hello.", *, name: str = "policy", repeat: int = 0, **fields: Any) -> Episode:
    cast = [CharacterProfile(id=f"c{seat}", name=f"Person {seat}") for seat in range(2)]
    task = Task(
        id=fields.pop("task", "task-1"),
        family="bargain",
        scenario=fields.pop("scenario", "Two people meet."),
        seats=(
            Seat(character=cast[0], goal=fields.pop("wish", "Sell high.")),
            Seat(character=cast[1], goal="Buy low in secret."),
        ),
    )
    return Episode(
        task=task,
        agents={"agent_0": name, "agent_1": "partner"},
        seed=repeat,
        repeat=repeat,
        events=(
            Event(turn=0, speaker="agent_0", action_type="speak", argument=said),
            Event(turn=1, speaker="agent_1", action_type="action", argument="offer 3"),
            Event(turn=1, speaker="environment", action_type="none", argument="whispered note", to=("agent_1",)),
            Event(turn=2, speaker="agent_0", action_type="none", parse_failure=True),
        ),
        ended_by="silence",
        verdicts={
            "judge": Verdict(
                judge="judge", scores={a: {"goal": Score(value=v)} for a, v in (("agent_0", goal), ("agent_1", 4))}
            )
        },
        **fields,
    )


def write(folder: Path, text: str = "plain", clock: float = 1.0) -> Path:
    """A whole run folder, in which `text` stands wherever a model or a user could have put it."""
    said = text.replace("\ud800", "") or "nothing"  # records refuse lone surrogates
    policies = ["base", "sr", "bc", "bc+sr", "sr+bc", "expert", "leave", text]
    rows = [
        {
            "policy": policy,
            "tasks": tasks,
            "agent": "policy" if policy == "bc" else f"scripted/{policy}",
            "goal": estimate(index + 0.25),
            "agreement": estimate(0.5),
            text: estimate(0.125),
            "failed": 1,
            "judge_failed": 2,
        }
        for tasks in ("seen-wording", "unseen-wording", text)
        for index, policy in enumerate(policies)
    ]
    files: dict[str, Any] = {
        "manifest.json": {
            "preset": text,
            "seed": 7,
            "version": "0.9",
            "settings": {
                "expert": text,
                text: {"rank": 8, "time_limit": "30m"},
                "store": "postgresql://me:hush@host/db",
            },
            "stages": {
                "bc": {
                    "inputs": "abc",
                    "outputs": {},
                    "statistics": {"note": text, "seconds": clock},
                    "seconds": clock,
                },
                text: {"seconds": clock},
            },
        },
        "filters/bc.json": paper_bc([play(goal, repeat=repeat) for repeat, goal in enumerate((9, 5, 7, 1))]).record(),
        "filters/again.json": {"rule": text, "dropped": {text: 3}, "by_family": {text: {"scored": 1}}},
        "training/bc.json": {
            "losses": [{"step": n, "tokens": 100 * n, "loss": 3 / n, "elapsed": clock} for n in range(1, 9)],
            "settings": {"rank": 8, "note": text},
            "rows": 12,
            "cut_turns": 3,
            "seconds": clock,
            "resumed_from": int(clock),
        },
        "evaluation.json": {
            "policies": rows,
            "paired": [
                {"policy": "bc", "minus": "base", "tasks": "seen-wording", "goal": estimate(1.75)},
                {"a": "bc+sr", "b": "bc", "tasks": text, "measure": "goal", **estimate(-0.625)},
                {"a": text, "b": "leave", "tasks": "seen-wording", "measure": text, **estimate(0.5)},
            ],
            "goals": {policy: {"seen-wording": [0, 1, 5.5, 10], text: [3]} for policy in policies},
            "settings": {"judge": text},
        },
        "samples/bc.json": [play(8, said, started_at=f"{clock}", seconds=clock, scenario=said, wish=said)],
        "samples/base.json": [play(1, "Before.", name=said)],
    }
    for name, value in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        as_json = [e.model_dump(mode="json") for e in value] if name.startswith("samples") else value
        path.write_text(json.dumps(as_json), encoding="ascii")
    return folder


class Page(html.parser.HTMLParser):
    """What a browser would see: elements with attributes, and text by element."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.styles: list[str] = []
        self.declarations: list[str] = []
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self._inside = tag
        self.elements.append((tag, dict(attrs)))
        assert len(attrs) == len(dict(attrs))

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        (self.styles if self._inside == "style" else self.text).append(data)

    def handle_comment(self, data):
        raise AssertionError(f"a comment: {data[:80]}")

    def handle_decl(self, decl):
        self.declarations.append(decl)

    @property
    def words(self) -> str:
        return " ".join(self.text)


def assert_harmless(page: Page) -> None:
    assert page.declarations == ["DOCTYPE html"]
    assert len(page.styles) == 1
    for tag, attributes in page.elements:
        assert tag in TAGS, tag
        assert attributes.keys() <= ATTRIBUTES, attributes
        if tag == "img":
            assert (attributes["src"] or "").startswith("data:image/png;base64,")
        else:
            assert "src" not in attributes
    policy = next(a["content"] for t, a in page.elements if t == "meta" and a.get("http-equiv"))
    digest = base64.b64encode(hashlib.sha256(page.styles[0].encode()).digest()).decode()
    rules = dict(rule.strip().split(" ", 1) for rule in (policy or "").split(";"))
    assert rules == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": f"'sha256-{digest}'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert "url(" not in page.styles[0]
    assert "@import" not in page.styles[0]


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    folder = write(tmp_path_factory.mktemp("plain"))
    write_report(folder)
    return folder


@pytest.fixture
def no_plots(monkeypatch):
    """Leaves the drawing out, where a test is about words."""
    monkeypatch.setattr(report, "_plot", lambda draw, alt: report._tag("p", alt))


# --- what stands in it ----------------------------------------------------------------------------------


def test_report_json_has_the_evaluations_rows_exactly_and_every_other_part(plain):
    record = json.loads((plain / "report.json").read_text())
    evaluation = json.loads((plain / "evaluation.json").read_text())
    assert record["policies"] == evaluation["policies"]
    assert record["paired"] == evaluation["paired"]
    assert record["filters"]["bc"] == json.loads((plain / "filters" / "bc.json").read_text())
    assert [entry["loss"] for entry in record["training"]["bc"]["losses"]] == [3 / n for n in range(1, 9)]
    assert record["training"]["bc"]["rows"] == 12
    assert (record["preset"], record["seed"], record["version"], record["missing"]) == ("plain", 7, "0.9", [])
    assert record["settings"]["plain"] == {"rank": 8, "time_limit": "30m"}
    assert record["evaluation"]["settings"] == {"judge": "plain"}


def test_the_page_shows_every_part(plain):
    words = Page((plain / "report.html").read_text(encoding="utf-8")).words
    for shown in (
        "Run of preset plain",
        "seed 7, sotopia-env 0.9",
        "2.25",  # the goal of bc
        "[1.75, 2.75]",
        "-0.62",  # bc+sr minus bc
        "Differences to policies without skill (1)",
        "paper-bc(keep=2, reward=goal)",
        "cut_turns",
        "plain.time_limit",
        "30m",
        "Before.",
        "[action] offer 3",
        "does nothing (unreadable reply)",
        "goal 8.00 (judge)",
        "ended by silence",
    ):
        assert shown in words, shown
    assert "This report is not complete" not in words


def test_a_sample_shows_the_learners_goal_and_score_and_only_what_was_public(plain):
    words = Page((plain / "report.html").read_text(encoding="utf-8")).words
    assert "whispered note" not in words
    learner, unknown = words.split("Before.")[1], words.split("Before.")[0].split("Sample episodes")[1]
    # The agent of "bc" is known from its row; of "base" it is not, so both seats are shown.
    assert "Buy low in secret." not in learner
    assert "Buy low in secret." in unknown


def test_plots_are_embedded_png_and_do_not_touch_matplotlibs_settings(plain):
    import matplotlib

    def settings() -> dict[str, Any]:
        # Reading the backend would choose one.
        return {name: value for name, value in dict.items(matplotlib.rcParams) if name != "backend"}

    before = settings()
    page = Page(render(read_run(plain)))
    assert settings() == before
    images = [attributes for tag, attributes in page.elements if tag == "img"]
    assert len(images) == 4
    for image in images:
        data = base64.b64decode((image["src"] or "").partition("base64,")[2])
        assert data.startswith(b"\x89PNG\r\n\x1a\n")
        assert len(data) > 5000
        assert image["alt"]


def test_passwords_and_keys_are_not_shown(tmp_path, no_plots):
    write(tmp_path)
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["settings"]["judge"] = {"api_key": "sk-very-secret", "base_url": "https://user:hush@host/v1"}
    path.write_text(json.dumps(manifest))
    page, record = write_report(tmp_path)[1:]
    for text in (page.read_text(encoding="utf-8"), record.read_text()):
        assert "hush" not in text
        assert "sk-very-secret" not in text
        assert "postgresql://me:***@host/db" in text


# --- nothing in it can act --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Path:
    folder = write(tmp_path_factory.mktemp("hostile"), HOSTILE)
    (folder / "training" / "bc.json").rename(folder / "training" / f"{BARE}.json")
    (folder / "filters" / "again.json").rename(folder / "filters" / f"{BARE}.json")
    (folder / "samples" / "base.json").rename(folder / "samples" / f"{BARE}.json")
    (folder / "evaluation.json").write_text(
        (folder / "evaluation.json").read_text().replace('"sr+bc"', json.dumps(HOSTILE[:30]))
    )
    write_report(folder)
    return folder


def test_hostile_text_becomes_neither_markup_nor_attribute_nor_url(hostile):
    text = (hostile / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert_harmless(page)
    assert "<script>alert(1)</script>" in page.words
    assert BARE in page.words
    assert not re.search(r"<script|<svg|<a\b|<iframe", text, re.IGNORECASE)
    assert "&amp;lt;b&amp;gt;" in text  # an escape in the text stays the text it was


def test_control_characters_are_made_visible(hostile):
    text = (hostile / "report.html").read_text(encoding="utf-8")
    assert not [c for c in text if not c.isprintable() and c != "\n"]
    words = Page(text).words
    for shown in (r"\x00", r"\x1b[31m", r"\u202e\u2066\u200b\ud800"):
        assert shown in words
    assert "\u4f60\u597d" in words


def test_report_json_is_ascii_and_holds_hostile_text_unchanged(hostile):
    data = (hostile / "report.json").read_bytes()
    assert data.isascii()
    assert json.loads(data)["preset"] == HOSTILE


@given(st.text())
def test_any_text_is_one_text_in_one_element_and_nothing_else(text):
    page = Page(str(report._tag("p", text, class_=text)))
    assert [tag for tag, _ in page.elements] == ["p"]
    assert set(page.elements[0][1]) == {"class"}
    shown = report.html.unescape(report._escaped(text))
    assert "".join(page.text) == shown == page.elements[0][1]["class"]
    assert shown.isprintable() or "\n" in shown


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**15), 10**15) | st.floats(-1e6, 1e6) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
ROWS = st.lists(
    st.fixed_dictionaries({}, optional=dict.fromkeys(("policy", "tasks", "agent", "goal", "failed"), JSON))
    | st.fixed_dictionaries({"policy": st.text(max_size=5), "goal": st.fixed_dictionaries({"mean": st.floats(0, 10)})}),
    max_size=4,
)


@given(
    st.fixed_dictionaries({}, optional=dict.fromkeys(("preset", "seed", "version", "settings", "stages"), JSON)),
    st.fixed_dictionaries(
        {}, optional={"policies": ROWS | JSON, "paired": ROWS | JSON, "goals": JSON, "settings": JSON}
    ),
    st.dictionaries(
        st.text(max_size=5), st.fixed_dictionaries({}, optional={"rule": JSON, "dropped": JSON, "goal": JSON})
    ),
    st.dictionaries(
        st.text(max_size=5), st.fixed_dictionaries({}, optional={"losses": JSON, "settings": JSON, "rows": JSON})
    ),
)
def test_whatever_json_a_run_holds_the_page_is_made_and_harmless(manifest, evaluation, filters, training):
    run = Run(manifest, evaluation, filters, training, {}, ())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "_plot", lambda draw, alt: report._tag("p", alt))
        assert_harmless(Page(render(run)))
    assert json.loads(json.dumps(run.record(), allow_nan=False)) == run.record()


def test_any_name_can_be_drawn():
    names = ["$\\frac{$", "_hidden", "\u4f60\u597d \U0001f600", "x" * 500, "\x00", "", "a\nb", "\ud800", "<b>"]
    evaluation = {
        "policies": [{"policy": name, "tasks": name, "goal": estimate(5)} for name in names],
        "goals": {name: {name: [1, 2]} for name in names},
    }
    filters = {name: {"goal_histogram": {"before": [1] * 10, "after": [0] * 10}} for name in names}
    training = {name: {"losses": [{"tokens": 1, "loss": 2.0}]} for name in names}
    page = Page(render(Run({}, evaluation, filters, training, {}, ())))
    assert_harmless(page)
    assert [tag for tag, _ in page.elements].count("img") == 4


def test_a_name_that_begins_with_an_underscore_is_in_the_legend_too():
    training = {"_hidden": {"losses": [{"tokens": 1, "loss": 2.0}]}}
    figure = report._curve_figure(Run({}, {}, {}, training, {}, ()))()
    assert [text.get_text().strip() for text in figure.axes[0].get_legend().get_texts()] == ["_hidden"]


# --- the same run, the same report --------------------------------------------------------------------------


def test_two_reports_on_one_run_are_identical_byte_by_byte(plain, tmp_path):
    again = write_report(plain, tmp_path / "again.html")
    assert again.page.read_bytes() == (plain / "report.html").read_bytes()
    assert again.json.read_bytes() == (plain / "report.json").read_bytes()


def test_times_and_durations_change_nothing(plain, tmp_path):
    later = write_report(write(tmp_path, clock=987654.0))
    assert later.page.read_bytes() == (plain / "report.html").read_bytes()
    assert later.json.read_bytes() == (plain / "report.json").read_bytes()


def test_stages_stand_in_the_order_in_which_they_ran(tmp_path):
    write(tmp_path)
    for name in ("a", "b", "z"):
        (tmp_path / "filters" / f"{name}.json").write_text("{}")
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "stages": {"z": {}, "b": {}}}))
    assert list(read_run(tmp_path).filters) == ["z", "b", "a", "again", "bc"]


# --- runs that are not whole ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("removed", "said", "shown"),
    [
        ("manifest.json", "manifest.json is not there", "Run of preset unknown"),
        ("evaluation.json", "evaluation.json is not there", "No policy has been evaluated."),
        ("filters/*", "filters/ is empty", "Nothing has been filtered."),
        ("training/*", "training/ is empty", "Nothing has been trained."),
        ("samples/*", "samples/ is empty", "There are no sample episodes."),
    ],
)
def test_a_missing_piece_is_named_and_the_rest_is_reported(tmp_path, no_plots, removed, said, shown):
    for path in write(tmp_path).glob(removed):
        path.unlink()
    run = read_run(tmp_path)
    words = Page(render(run)).words
    assert run.missing == (said,)
    assert run.record()["missing"] == [said]
    for text in ("This report is not complete.", said, shown):
        assert text in words


def test_policies_that_were_not_evaluated_are_named(tmp_path, no_plots):
    path = write(tmp_path) / "evaluation.json"
    rows = [row for row in json.loads(path.read_text())["policies"] if row["policy"] in ("base", "bc", "expert")]
    path.write_text(json.dumps({"policies": rows}))
    run = read_run(tmp_path)
    assert run.missing == tuple(f"the evaluation has no policy {name!r}" for name in ("sr", "bc+sr", "sr+bc"))
    words = Page(render(run)).words
    assert "No paired differences have been computed." in words
    assert "The evaluation holds no scores of single episodes." in words


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("evaluation.json", "{", r"evaluation\.json cannot be read as JSON \(JSONDecodeError: .*\)"),
        ("evaluation.json", "[1]", r"evaluation\.json is no JSON object"),
        ("manifest.json", "[" * 5000, r"manifest\.json cannot be read as JSON \(RecursionError.*\)"),
        ("manifest.json", "[" * 70 + "]" * 70, r"manifest\.json cannot be read as JSON \(.*more than 60 levels deep\)"),
        ("training/bc.json", "\udcff", r"training/bc\.json cannot be read as JSON \(UnicodeDecodeError.*\)"),
        ("filters/bc.json", "[]", r"filters/bc\.json is no JSON object"),
        ("samples/bc.json", '[{"task": 3}]', r"samples/bc\.json, entry 0, is no episode \(field 'task': .*\)"),
        ("samples/bc.json", "3", r"samples/bc\.json, entry 0, is no episode .*"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_and_the_rest_is_reported(tmp_path, no_plots, name, content, said):
    (write(tmp_path) / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    run = read_run(tmp_path)
    assert len(run.missing) == 1
    assert re.fullmatch(said, run.missing[0])
    assert_harmless(Page(render(run)))


def test_numbers_that_are_not_finite_are_missing_and_not_written(tmp_path, no_plots):
    losses = '[{"step": 1, "tokens": 5, "loss": NaN}, {"step": 2, "tokens": 1e999, "loss": 2.5}]'
    (write(tmp_path) / "training" / "bc.json").write_text(f'{{"losses": {losses}, "rows": {"9" * 400}}}')
    record = json.loads(write_report(tmp_path).json.read_text())["training"]["bc"]
    assert record == {
        "losses": [{"step": 1, "tokens": 5, "loss": None}, {"step": 2, "tokens": None, "loss": 2.5}],
        "rows": None,
    }


def test_many_samples_are_cut_and_the_page_says_so(tmp_path, no_plots):
    episodes = [play(1, task=f"task-{number:02}").model_dump(mode="json") for number in range(15)]
    (write(tmp_path) / "samples" / "bc.json").write_text(json.dumps(episodes))
    words = Page(render(read_run(tmp_path))).words
    # task-1 of "base" is one more.
    assert "4 more tasks are in samples/ of the run folder." in words


# --- refusals and files --------------------------------------------------------------------------------------


def test_a_folder_that_holds_no_run_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match=r"is no run folder: manifest.json is not there; .*`sotopia-env pi`"):
        write_report(tmp_path)
    with pytest.raises(ConfigurationError, match="is no folder"):
        write_report(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("out.json", "the page needs another ending"),
        ("evaluation.html", "evaluation.json beside it is a file of the run"),
    ],
)
def test_a_report_never_overwrites_the_run(tmp_path, output, message):
    before = (write(tmp_path) / "evaluation.json").read_bytes()
    with pytest.raises(ConfigurationError, match=message):
        write_report(tmp_path, tmp_path / output)
    assert (tmp_path / "evaluation.json").read_bytes() == before


def test_without_matplotlib_one_line_names_the_extra_and_nothing_is_written(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib.style", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'sotopia-env\[train\]'"):
        write_report(tmp_path)
    assert not list(tmp_path.glob("report*"))


def test_the_module_loads_no_matplotlib_until_it_draws():
    code = "import sys, sotopia_env.evaluation.report; print([m for m in ('matplotlib', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- the command ----------------------------------------------------------------------------------------------


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def test_the_command_writes_both_files_and_prints_where(tmp_path, no_plots):
    write(tmp_path / "run")
    done = invoke(tmp_path / "run", "--output", tmp_path / "page.html")
    assert done.exit_code == 0
    assert done.stdout.split() == [str(tmp_path / "page.html"), str(tmp_path / "page.json")]
    assert done.stderr == ""
    assert_harmless(Page((tmp_path / "page.html").read_text(encoding="utf-8")))


def test_the_command_prints_the_record_for_programs(tmp_path, no_plots):
    write(tmp_path)
    done = invoke(tmp_path, "--json")
    assert json.loads(done.stdout) == json.loads((tmp_path / "report.json").read_text())


def test_the_command_says_what_is_missing_and_succeeds(tmp_path, no_plots):
    (write(tmp_path) / "evaluation.json").unlink()
    done = invoke(tmp_path)
    assert done.exit_code == 0
    assert "not complete: evaluation.json is not there." in done.stderr


def test_the_command_refuses_what_is_no_run_in_one_line(tmp_path):
    done = invoke(tmp_path)
    assert done.exit_code == 1
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
