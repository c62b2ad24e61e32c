"""Questions for policies: what is read, what is asked, what answers come to, and what hostile files cannot do."""

from __future__ import annotations

import csv
import io
import json
import math
import random
import subprocess
import sys
import zipfile
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from sotopia_env import ConfigurationError, ModelError, StoreError
from sotopia_env.cli import app
from sotopia_env.evaluation import qa
from sotopia_env.evaluation.mmlu import SUBJECTS, Bank, Question, proportional, read_bank
from sotopia_env.evaluation.retention import Answers, Measure, Report, paired_change, share, tango

pytest.importorskip("scipy")
pytest.importorskip("lm_eval")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from sotopia_env.agents.examinees import HFExaminee, hf_examinee  # noqa: E402
from sotopia_env.agents.hf import HFAgent  # noqa: E402

# peft asks transformers for something under its old name.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")

REAL = Path(__file__).parent.parent / "../shared/data/mmlu.zip"
ROWS = {
    "lanterns": [
        ("Which of these gives light in the dark?", "a lit lantern", "a wet stone", "a shut book", "a spoon", "A"),
        ("What does a lantern burn?", "sand", "oil", "glass", "rain", "B"),
        ("Who lights the lantern on the quay?", "nobody", "the moon", "the keeper", "a gull", "C"),
        ("When is the lantern put out?", "at noon", "never", "in winter", "at dawn, as the boats are in", "D"),
        ("How many wicks has the big lantern?", "none", "two", "nine", "forty", "B"),
    ],
    "rivers": [
        ("Where does a river end?", "on a hill", "in a drawer", "in the sea", "in a song", "C"),
        ("What stands across a river?", "a bridge", "a cloud", "an hour", "a debt", "A"),
        ("What is under the ice in winter?", "a roof", "water", "bread", "a coin", "B"),
    ],
}
EXAMPLES = {
    "lanterns": [("Is a lantern heavy?", "as a feather", "as a loaf", "as a ship", "as a thought", "B")] * 2,
    "rivers": [("Is a river dry?", "no", "on paper", "in a desert it may be", "always", "A")] * 2,
}
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def text_of(rows):
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue()


def files(rows=None, examples=None):
    found = {f"data/test/{name}_test.csv": text_of(some) for name, some in (ROWS if rows is None else rows).items()}
    examples = EXAMPLES if examples is None else examples
    return found | {f"data/dev/{name}_dev.csv": text_of(some) for name, some in examples.items()}


def packed(path, contents):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def zipped(tmp_path):
    return packed(tmp_path / "small.zip", files())


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    return read_bank(packed(tmp_path_factory.mktemp("bank") / "small.zip", files()))


# --- reading --------------------------------------------------------------------------------------


def test_a_zip_and_a_folder_hold_the_same_questions(tmp_path, zipped):
    with zipfile.ZipFile(zipped) as archive:
        archive.extractall(tmp_path / "folder")
    bank, unpacked = read_bank(zipped, shots=2), read_bank(tmp_path / "folder", shots=2)
    assert bank.test == unpacked.test
    assert bank.dev == unpacked.dev
    assert bank.digest == unpacked.digest
    assert bank.test["rivers"][0] == Question(
        "Where does a river end?", ("on a hill", "in a drawer", "in the sea", "in a song"), 2
    )


def test_the_digest_changes_with_any_character(tmp_path, zipped):
    other = {**ROWS, "rivers": [*ROWS["rivers"][:2], (*ROWS["rivers"][2][:-1], "C")]}
    assert read_bank(zipped).digest != read_bank(packed(tmp_path / "other.zip", files(other))).digest


def test_other_files_are_passed_over(tmp_path):
    more = {"data/README.txt": "not a question", "__MACOSX/data/test/._x_test.csv": "\0", "data/val/rivers_val.csv": ""}
    assert set(read_bank(packed(tmp_path / "more.zip", files() | more)).test) == set(ROWS)


def test_only_the_subjects_that_are_named_are_read(zipped):
    assert list(read_bank(zipped, subjects=["rivers"]).test) == ["rivers"]
    with pytest.raises(ConfigurationError, match=r"'river'.*'lanterns', 'rivers'.*Did you mean 'rivers'"):
        read_bank(zipped, subjects=["river"])


def without(contents, *names):
    return {name: content for name, content in contents.items() if name not in names}


HOSTILE = [
    pytest.param({"../out/test/x_test.csv": "x"}, "leads out of it", id="traversal"),
    pytest.param({"/etc/test/x_test.csv": "x"}, "leads out of it", id="absolute"),
    pytest.param({"data\\..\\..\\x": "x"}, "leads out of it", id="backslashes"),
    pytest.param({"C:/test/x_test.csv": "x"}, "leads out of it", id="drive"),
    pytest.param({"data/test/bomb_test.csv": b"a" * (20 << 20)}, "too large", id="bomb"),
    pytest.param({"data/test/{{7*7}}_test.csv": "x"}, "allowed are letters", id="template-as-subject"),
    pytest.param({"data/test/rivers_test.csv": 'a,b,c,d,e,"A\n'}, "line 1: no CSV", id="open-quote"),
    pytest.param({"data/test/rivers_test.csv": "a,b,c,d,A\n"}, "line 1: 5 columns", id="five-columns"),
    pytest.param({"data/test/rivers_test.csv": "a,b,c,d,e,A\na,b,c,d,e,F\n"}, "line 2: the answer is 'F'", id="answer"),
    pytest.param({"data/test/rivers_test.csv": "a,b,c,d,e,AB\n"}, "the answer is 'AB'", id="two-answers"),
    pytest.param({"data/test/rivers_test.csv": " ,b,c,d,e,A\n"}, "blank", id="blank"),
    pytest.param({"data/test/rivers_test.csv": ""}, "holds no question", id="empty"),
    pytest.param({"data/test/rivers_test.csv": b"\xff\xfe,b,c,d,e,A\n"}, "not UTF-8", id="bytes"),
    pytest.param({"data/test/rivers_test.csv": "a" * 200_000 + ",b,c,d,e,A\n"}, "field larger", id="endless-field"),
    pytest.param({"more/test/rivers_test.csv": "a,b,c,d,e,A\n"}, "in two places", id="twice"),
    pytest.param({"data/dev/boats_dev.csv": "a,b,c,d,e,A\n" * 2}, "lacks the questions on 'boats'", id="missing"),
    pytest.param({"data/test/boats_test.csv": "a,b,c,d,e,A\n"}, r"fewer than 1 examples \(dev\) on 'boats'", id="dev"),
    pytest.param({"data/test/anatomy_test.csv": "a,b,c,d,e,A\n"}, "and 53 more subjects", id="not-all-of-mmlu"),
]


@pytest.mark.parametrize(("more", "message"), HOSTILE)
def test_a_hostile_or_broken_zip_is_refused_in_one_line_and_leaves_nothing(tmp_path, more, message):
    path = packed(tmp_path / "bad.zip", files() | more)
    with pytest.raises(ConfigurationError, match=message) as caught:
        read_bank(path, shots=1)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert [found.name for found in tmp_path.iterdir()] == ["bad.zip"]
    assert not list(tmp_path.parent.glob("out"))


def test_an_entry_that_understates_its_size_is_refused(tmp_path):
    path = packed(tmp_path / "liar.zip", files() | {"data/test/liar_test.csv": "a,b,c,d,e,A\n" * 1000})
    data = path.read_bytes()
    true, small = (12_000).to_bytes(4, "little"), (12).to_bytes(4, "little")
    assert true in data
    path.write_bytes(data.replace(true, small))
    with pytest.raises(ConfigurationError, match="cannot be read as a zip"):
        read_bank(path)


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")  # zipfile's, while the test packs the zip
def test_two_entries_of_one_name_are_refused(tmp_path, zipped):
    with zipfile.ZipFile(zipped, "a") as archive:
        archive.writestr("data/test/rivers_test.csv", "a,b,c,d,e,A\n")
    with pytest.raises(ConfigurationError, match="two entries"):
        read_bank(zipped)


@pytest.mark.parametrize("cut", [0, 10, 300])
def test_a_zip_that_was_cut_off_is_refused(zipped, cut):
    zipped.write_bytes(zipped.read_bytes()[:cut])
    with pytest.raises(ConfigurationError, match="cannot be read as a zip"):
        read_bank(zipped)


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
@given(
    st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=10),
)
@settings(max_examples=1000)
def test_a_zip_with_damaged_bytes_is_read_or_refused(tmp_path_factory, packing, damage):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packing) as archive:
        archive.writestr("test/tea_test.csv", "q,a,b,c,d,A\n" * 30)
    data = bytearray(buffer.getvalue())
    for place, byte in damage:
        data[place % len(data)] = byte
    path = tmp_path_factory.getbasetemp() / "damaged.zip"
    path.write_bytes(data)
    with suppress(ConfigurationError):  # and nothing else
        read_bank(path)


def damaged(packing, change):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packing) as archive:
        archive.writestr("test/tea_test.csv", "q,a,b,c,d,A\n" * 30)
    data = bytearray(buffer.getvalue())
    change(data)
    return bytes(data)


def directory_beyond_the_end(data):
    place = data.rindex(b"PK\5\6") + 16
    data[place : place + 4] = (0x7FFFFFFF).to_bytes(4, "little")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(damaged(zipfile.ZIP_LZMA, lambda data: data.__setitem__(slice(60, 70), b"\xff" * 10)), id="lzma"),
        pytest.param(damaged(zipfile.ZIP_BZIP2, lambda data: data.__setitem__(slice(55, 60), b"\xff" * 5)), id="bzip2"),
        pytest.param(damaged(zipfile.ZIP_STORED, directory_beyond_the_end), id="directory"),
    ],
)
def test_a_zip_whose_packed_data_are_damaged_is_refused(tmp_path, data):
    (tmp_path / "damaged.zip").write_bytes(data)
    with pytest.raises(ConfigurationError, match=r"'damaged\.zip' cannot be read as a zip"):
        read_bank(tmp_path / "damaged.zip")


def test_what_is_not_there_or_empty_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="There is no file or folder"):
        read_bank(tmp_path / "none.zip")
    with pytest.raises(ConfigurationError, match="holds no questions"):
        read_bank(tmp_path)


@given(st.binary(max_size=300))
@settings(max_examples=60, deadline=None)
def test_any_bytes_in_a_csv_give_questions_or_one_line(data):
    from sotopia_env.evaluation.mmlu import _File, _questions

    try:
        found, message = _questions(_File("test", "x", "x_test.csv", data)), ""
    except ConfigurationError as error:
        found, message = [], str(error)
    assert "\n" not in message
    assert all(0 <= question.answer < 4 and len(question.choices) == 4 for question in found)
    assert bool(found) != bool(message)


def test_the_hub_is_asked_for_mmlu_and_a_failure_is_one_line(monkeypatch):
    import datasets

    def load(name, config, split):
        assert (name, config) == ("cais/mmlu", "all")
        rows = [
            {"question": "q", "subject": subject, "choices": ["a", "b", "c", "d"], "answer": number % 4}
            for number, subject in enumerate(SUBJECTS * 2)
        ]
        return datasets.Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset", load)
    bank = read_bank("hub", shots=2)
    assert len(bank.test) == len(SUBJECTS) == 57
    assert bank.source == "cais/mmlu"
    assert bank.test["anatomy"][1].answer == (57 + 1) % 4

    def fail(*_, **__):
        raise ConnectionError("no way\nto the hub")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(ConfigurationError, match=r"cannot be loaded from the hub.*no way to the hub.*--data"):
        read_bank("hub")


@pytest.mark.skipif(not REAL.exists(), reason="the published MMLU is not beside this repository")
def test_the_published_mmlu_is_read_whole():
    bank = read_bank(REAL, shots=5)
    assert tuple(bank.test) == SUBJECTS
    assert sum(map(len, bank.test.values())) == 14_042
    drawn = bank.draw(1000)
    assert sum(map(len, drawn.values())) == 1000
    assert len(drawn) == 57


# --- drawing --------------------------------------------------------------------------------------

SIZES = st.dictionaries(st.sampled_from([f"s{n}" for n in range(12)]), st.integers(1, 300), min_size=1)


@given(SIZES, st.integers(1, 2000))
def test_every_subject_gets_its_share_to_within_one(sizes, count):
    shares, total = proportional(sizes, count), sum(sizes.values())
    assert sum(shares.values()) == min(count, total)
    for name, size in sizes.items():
        assert 0 <= shares[name] <= size
        assert abs(shares[name] - min(count, total) * size / total) < 1


def many(sizes):
    question = Question("q", ("a", "b", "c", "d"), 0)
    return Bank({name: [question] * size for name, size in sizes.items()}, dict.fromkeys(sizes, ()), "made up")


@given(SIZES, st.integers(1, 400), st.integers(1, 400), st.integers(0, 5))
def test_a_draw_repeats_and_grows_without_changing(sizes, few, more, seed):
    bank = many(sizes)
    first, second = bank.draw(few, seed=seed), bank.draw(more, seed=seed)
    assert first == bank.draw(few, seed=seed)
    for name in first.keys() & second.keys():
        assert len({*first[name]} & {*second[name]}) == min(len(first[name]), len(second[name]))


def test_other_seeds_draw_other_questions():
    bank = many({"a": 200, "b": 100})
    assert bank.draw(50, seed=0) != bank.draw(50, seed=1)


def test_a_draw_of_nothing_is_refused(bank):
    with pytest.raises(ConfigurationError, match="whole number of 1 or more"):
        bank.draw(0)


# --- intervals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gained", "lost", "n"), [(0, 1, 44), (12, 3, 80), (7, 9, 1000), (60, 110, 400), (5, 0, 6)])
def test_the_ends_of_tangos_interval_are_where_the_score_test_stops_rejecting(gained, lost, n):
    """With the restricted likelihood maximized numerically here, not by the closed form."""
    from scipy.optimize import minimize_scalar

    for end, sign in zip(tango(gained, lost, n), (1, -1), strict=True):

        def unlikely(down, end=end):  # shares of gained, lost and unchanged answers if the change is `end`
            shares = (down + end, down, 1 - 2 * down - end)
            counts = (gained, lost, n - gained - lost)
            return -sum(count * math.log(max(part, 1e-300)) for count, part in zip(counts, shares, strict=True))

        least, most = max(0.0, -end), (1 - end) / 2
        down = minimize_scalar(unlikely, bounds=(least, most), method="bounded", options={"xatol": 1e-12}).x
        score = (gained - lost - n * end) / math.sqrt(n * (2 * down + end - end**2))
        assert score == pytest.approx(sign * 1.959964, abs=2e-3)


def test_a_change_is_of_paired_answers_and_agrees_with_mcnemar():
    before = [1] * 30 + [0] * 20 + [1] * 8 + [0] * 22
    after = [1] * 30 + [0] * 20 + [0] * 8 + [1] * 22
    change = paired_change(before, after)
    assert change.mean == pytest.approx(14 / 80)
    assert (change.gained, change.lost, change.n) == (22, 8, 80)
    from scipy.stats import chi2

    assert change.p == pytest.approx(chi2.sf((22 - 8) ** 2 / 30, 1))


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 200))
@settings(deadline=None)
def test_an_interval_leaves_zero_out_exactly_where_the_test_rejects(gained, lost, same):
    if gained + lost + same == 0:
        same = 1
    change = paired_change([0] * gained + [1] * (lost + same), [1] * gained + [0] * lost + [1] * same)
    assert -1 <= change.low <= change.mean <= change.high <= 1
    if abs(change.p - 0.05) > 1e-6:
        assert (change.low > 0 or change.high < 0) == (change.p < 0.05)
    mirrored = tango(lost, gained, gained + lost + same)
    assert mirrored == pytest.approx((-change.high, -change.low), abs=1e-9)


def test_no_changed_answer_still_leaves_room_for_a_change():
    change = paired_change([0, 1] * 50, [0, 1] * 50)
    assert change.low == pytest.approx(-change.high)
    assert 0.02 < change.high < 0.05
    assert change.p == 1.0


def test_numbers_that_are_not_right_or_wrong_have_students_interval():
    change = paired_change([0.5, 0.25, 1.0, 0.75], [0.75, 0.5, 1.25, 1.0 + 1e-3])
    assert change.mean == pytest.approx(0.25025)
    assert change.gained is None
    assert change.low > 0
    assert share([0.5, 0.7]).n == 2


def test_pairs_are_needed():
    with pytest.raises(ConfigurationError, match="needs pairs"):
        paired_change([1], [1, 0])
    with pytest.raises(ConfigurationError, match="no value"):
        share([])
    for single in (lambda: share([0.5]), lambda: paired_change([0.5], [0.7])):
        with pytest.raises(ConfigurationError, match="two or more"):
            single()
    assert share([1]) == (1, 0, 1, 1)


def rates_by_subject(draws, base, changed, drift):
    """Of 57 subjects, how often a question is right before and after, with sizes as unequal as MMLU's."""
    sizes = numpy.sort(draws.pareto(1.2, 57) + 1)
    sizes = numpy.round(sizes / sizes.sum() * 14_042).astype(int).clip(1)
    right = draws.beta(40 * base, 40 * (1 - base), 57)
    lost = numpy.clip(changed / 2 - drift / 2 + draws.normal(0, changed / 20, 57), 0, right)
    gained = numpy.clip(changed / 2 + drift / 2 + draws.normal(0, changed / 20, 57), 0, 1 - right)
    if drift == 0:  # no change at all, in any subject
        gained = lost = numpy.minimum(gained, lost)
    return sizes, right, gained, lost


@pytest.mark.parametrize("questions", [100, 1000])
@pytest.mark.parametrize(
    ("changed", "drift"), [(0.3, 0.0), (0.3, -0.06), (0.1, 0.02), (0.04, 0.0), (0.02, -0.01)], ids=str
)
def test_intervals_of_a_paired_change_hold_over_drawn_questions(questions, changed, drift):
    """5,000 draws, stratified as the command draws: coverage 93 to 99%, and 1 to 6% false alarms."""
    draws, repeats = numpy.random.default_rng(7), 5000
    sizes, _, gained, lost = rates_by_subject(draws, 0.3, changed, drift)
    shares = proportional({str(number): int(size) for number, size in enumerate(sizes)}, questions)
    counts = numpy.array([shares[str(number)] for number in range(57)])
    truth = float((sizes * (gained - lost)).sum() / sizes.sum())
    up = draws.binomial(counts, gained, (repeats, 57))
    down = draws.binomial(counts - up, lost / (1 - gained), (repeats, 57))
    interval = lru_cache(maxsize=None)(lambda b, c: tango(b, c, questions))
    bounds = numpy.array([interval(int(b), int(c)) for b, c in zip(up.sum(1), down.sum(1), strict=True)])
    covered = ((bounds[:, 0] <= truth) & (truth <= bounds[:, 1])).mean()
    assert 0.93 <= covered <= 0.99
    if drift == 0:
        assert truth == 0
        assert 0.01 <= ((bounds[:, 0] > 0) | (bounds[:, 1] < 0)).mean() <= 0.06


@pytest.mark.parametrize("base", [0.05, 0.25, 0.6, 0.97])
def test_intervals_of_an_accuracy_hold_over_drawn_questions(base):
    draws, repeats, questions = numpy.random.default_rng(3), 5000, 1000
    sizes, right, _, _ = rates_by_subject(draws, base, 0.1, 0.0)
    shares = proportional({str(number): int(size) for number, size in enumerate(sizes)}, questions)
    counts = numpy.array([shares[str(number)] for number in range(57)])
    truth = float((sizes * right).sum() / sizes.sum())
    interval = lru_cache(maxsize=None)(lambda hits: share([1] * hits + [0] * (questions - hits)))
    found = [interval(int(hits)) for hits in draws.binomial(counts, right, (repeats, 57)).sum(1)]
    assert 0.935 <= numpy.mean([one.low <= truth <= one.high for one in found]) <= 0.975


# --- what answers come to -------------------------------------------------------------------------

LETTER = Measure("mmlu letter", "acc")


def answers(picks, right):
    keys = [f"q{number}" for number in range(len(right))]
    values = {key: float(pick == good) for key, pick, good in zip(keys, picks, right, strict=True)}
    return Answers(
        values,
        dict.fromkeys(keys, 0.25),
        dict(zip(keys, picks, strict=True)),
        dict(zip(keys, right, strict=True)),
    )


def report(**policies):
    return Report({(name, LETTER): found for name, found in policies.items()}, {"made": "here"}, {"base": 0})


def test_a_base_that_guesses_is_said_to_be_useless_for_retention():
    draw = random.Random(1)
    right = [draw.randrange(4) for _ in range(1000)]
    guesses = [draw.randrange(4) for _ in range(1000)]
    found = report(base=answers(guesses, right), bc=answers(right, right))
    assert found.above_chance("base", LETTER) is False
    assert found.warnings() == [
        "base is not distinguishable from chance on mmlu letter: retention cannot be measured with it."
    ]


def test_always_the_same_letter_is_no_knowledge_however_often_it_is_right():
    right = [3] * 450 + [0, 1, 2] * 183
    found = report(base=answers([3] * len(right), right))
    assert found.share("base", LETTER).low > 0.25
    assert found.skill("base", LETTER).mean == pytest.approx(0, abs=1e-12)
    assert found.above_chance("base", LETTER) is False


def test_a_base_that_knows_something_gives_no_warning():
    draw = random.Random(2)
    right = [draw.randrange(4) for _ in range(1000)]
    known = [good if draw.random() < 0.2 else draw.randrange(4) for good in right]
    found = report(base=answers(known, right))
    assert found.above_chance("base", LETTER) is True
    assert found.warnings() == []
    skill = found.skill("base", LETTER)
    assert skill.mean == pytest.approx(found.share("base", LETTER).mean - 0.25, abs=0.01)


def test_skill_is_found_at_its_rate_where_there_is_none():
    """Guesses with a strong habit: at most about 2.5% of 2,000 exams show skill by chance."""
    draw = numpy.random.default_rng(5)
    seen = 0
    for _ in range(2000):
        right = draw.choice(4, 300, p=[0.1, 0.2, 0.3, 0.4])
        picks = draw.choice(4, 300, p=[0.05, 0.05, 0.2, 0.7])
        seen += report(base=answers(picks.tolist(), right.tolist())).skill("base", LETTER).low > 0
    assert 0.012 <= seen / 2000 <= 0.04


def test_results_are_saved_whole_and_read_back(tmp_path):
    right = [number % 4 for number in range(40)]
    found = report(base=answers(right, right), bc=answers([0] * 40, right))
    found.save(tmp_path / "qa.json")
    again = Report.load(tmp_path / "qa.json")
    assert again.record() == found.record()
    assert again.change("bc", "base", LETTER).mean == -0.75
    again.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "qa.json").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.json", "qa.json"]


@pytest.mark.parametrize("text", ["", "[]", '{"version": 2}', '{"version": 1, "answers": [{}]}', "null"])
def test_a_file_that_holds_no_results_is_refused(tmp_path, text):
    (tmp_path / "qa.json").write_text(text)
    with pytest.raises(ConfigurationError, match="holds no answers"):
        Report.load(tmp_path / "qa.json")


# --- models ---------------------------------------------------------------------------------------


def speaker(folder, *, seed=0, positions=512):
    """Save a tiny Llama with random weights and a byte-level tokenizer learned on our own questions."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>", "<|pad|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        [text for rows in ROWS.values() for row in rows for text in row],
        trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=special, show_progress=False),
    )
    tokens = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<|im_end|>", pad_token="<|pad|>", chat_template=TEMPLATE
    )
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        eos_token_id=tokens.eos_token_id,
        bos_token_id=None,
        pad_token_id=tokens.pad_token_id,
        initializer_range=0.3,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokens.save_pretrained(folder)
    return str(folder)


def adapter(folder, base, *, seed=1):
    from peft import LoraConfig, get_peft_model

    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    config = LoraConfig(r=4, target_modules=["q_proj", "o_proj", "down_proj"], task_type="CAUSAL_LM")
    wrapped = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.5)
    wrapped.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return speaker(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def tuned(base, tmp_path_factory):
    pytest.importorskip("peft")
    return adapter(tmp_path_factory.mktemp("models") / "tuned", base)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def examine(bank, *, options=None, **examinees):
    exam = qa.mmlu_exam(bank, questions=100, **(options or {}))
    return qa.examine({label: hf_examinee(f"hf/{folder}") for label, folder in examinees.items()}, exam)


@pytest.mark.parametrize("shots", [0, 2])
def test_prompts_are_those_of_lm_evals_own_tasks(bank, shots):
    import datasets
    import lm_eval.tasks
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    from sotopia_env.evaluation.mmlu import as_rows

    one = Bank({"anatomy": bank.test["rivers"]}, {"anatomy": bank.dev["rivers"]}, "x")
    data = datasets.DatasetDict(
        {
            "test": datasets.Dataset.from_list(as_rows(one.test["anatomy"], "anatomy")),
            "dev": datasets.Dataset.from_list(as_rows(one.dev["anatomy"], "anatomy")),
        }
    )
    folder = Path(lm_eval.tasks.__file__).parent / "mmlu"
    theirs = {"letter": "default/mmlu_anatomy.yaml", "text": "continuation/mmlu_anatomy.yaml"}
    for part, ours in qa.mmlu_exam(one, questions=9, shots=shots).tasks():
        config = load_yaml(folder / theirs[part.split()[1]], resolve_func=True)
        config.pop("tag")
        own = ConfigurableTask(config=config | {"custom_dataset": lambda **_: data, "num_fewshot": shots})
        for task in (ours, own):
            task.build_all_requests(rank=0, world_size=1)
        assert [one.args for one in ours.instances] == [one.args for one in own.instances]
        assert ours.config.task == own.config.task
        assert set(ours._metric_fn_list) == set(own._metric_fn_list)
        assert len(ours.instances) == 12


@pytest.mark.parametrize("template", [False, True])
@pytest.mark.parametrize("shots", [0, 2])
def test_shared_prompts_give_lm_evals_own_scores(bank, base, shots, template):
    scores = []
    for shared in (True, False):
        with hf_examinee(f"hf/{base}").seated() as model:
            model._share = shared
            tasks = [task for _, task in qa.mmlu_exam(bank, shots=shots).tasks()]
            for task in tasks:
                task.build_all_requests(
                    rank=0,
                    world_size=1,
                    apply_chat_template=template,
                    fewshot_as_multiturn=template,
                    chat_template=model.apply_chat_template if template else None,
                    tokenizer_name="x",
                )
            scores.append(model.loglikelihood([one for task in tasks for one in task.instances], disable_tqdm=True))
    assert len(scores[0]) == 2 * 8 * 4
    assert [score for score, _ in scores[0]] == pytest.approx([score for score, _ in scores[1]], abs=1e-3)
    assert [greedy for _, greedy in scores[0]] == [greedy for _, greedy in scores[1]]
    assert len({score for score, _ in scores[0]}) > 40


def test_base_and_trained_policies_answer_the_same_questions(bank, base, tuned, tmp_path):
    other = speaker(tmp_path / "other", seed=5)
    found = examine(bank, base=base, adapter=tuned, other=other)
    assert found.policies == ["base", "adapter", "other"]
    assert [measure.label for measure in found.measures] == ["mmlu letter", "mmlu text", "mmlu text acc_norm"]
    for measure in found.measures:
        keys = [list(found.answers[policy, measure].values) for policy in found.policies]
        assert keys[0] == keys[1] == keys[2]
        assert len(keys[0]) == 8
        assert found.chance("base", measure) == 0.25
    assert found.settings["policies"]["base"]["name"] == hf_examinee(f"hf/{base}").name
    assert found.settings["policies"]["adapter"]["name"].startswith("hf/tuned@")
    swapped = examine(bank, other=other, adapter=tuned, base=base)
    assert {key: swapped.answers[key] for key in found.answers} == found.answers


def test_a_policy_against_itself_has_not_changed(bank, base):
    found = examine(bank, base=base, again=base)
    for measure in found.measures:
        change = found.change("again", "base", measure)
        assert (change.mean, change.gained, change.lost) == (0, 0, 0)
        assert change.low < 0 < change.high


def test_what_was_right_is_what_the_likeliest_answer_says(bank, base):
    found = examine(bank, base=base, options={"scorings": ["letter"]})
    one = found.answers["base", LETTER]
    with hf_examinee(f"hf/{base}").seated() as model:
        for key, value in one.values.items():
            subject, place = key.removeprefix("mmlu_").split("/")
            question = bank.test[subject][int(place)]
            prompt = (
                f"The following are multiple choice questions (with answers) about {subject}.\n\n{question.text}\n"
                + "".join(f"{letter}. {choice}\n" for letter, choice in zip("ABCD", question.choices, strict=True))
                + "Answer:"
            )
            ids = torch.tensor([model.tok_encode(prompt)])
            letters = [model.tok_encode(prompt + f" {letter}")[ids.shape[1] :] for letter in "ABCD"]
            assert all(len(letter) == 2 or len(letter) == 1 for letter in letters)
            scores = []
            for letter in letters:
                whole = torch.cat([ids, torch.tensor([letter])], dim=1)
                with torch.no_grad():
                    probabilities = model.model(whole).logits[0].log_softmax(-1)
                places = range(ids.shape[1] - 1, whole.shape[1] - 1)
                scores.append(sum(float(probabilities[at, whole[0, at + 1]]) for at in places))
            pick = max(range(4), key=lambda number: scores[number])
            assert one.picks[key] == pick
            assert one.right[key] == question.answer
            assert value == float(pick == question.answer)


def test_prompts_that_do_not_fit_are_counted_and_said(bank, tmp_path):
    small = speaker(tmp_path / "small", positions=48)
    found = examine(bank, base=small)
    assert 0 < found.cut["base"] <= 64
    assert any("lost their beginning" in line for line in found.warnings())


def test_a_chat_template_changes_what_is_asked(bank, base):
    exam = qa.mmlu_exam(bank, shots=1)
    plain = qa.examine({"base": hf_examinee(f"hf/{base}")}, exam)
    chat = qa.examine({"base": hf_examinee(f"hf/{base}")}, exam, apply_chat_template=True)
    assert chat.settings["apply_chat_template"] is True
    assert plain.answers != chat.answers


# --- keeping --------------------------------------------------------------------------------------


class Unasked(HFExaminee):
    """Fails if it is asked anything."""

    @contextmanager
    def seated(self, *, seed=0):
        with super().seated(seed=seed) as model:
            model._loglikelihood_tokens = lambda *_, **__: pytest.fail("asked again")
            yield model


def test_kept_answers_are_not_asked_for_again(bank, base, tmp_path):
    store = tmp_path / "answers.jsonl"
    exam = qa.mmlu_exam(bank)
    first = qa.examine({"base": hf_examinee(f"hf/{base}")}, exam, store=store)
    assert len(store.read_bytes().splitlines()) == 64
    again = qa.examine({"base": Unasked(HFAgent(base))}, exam, store=store)
    assert again.record() == first.record()


def test_a_killed_run_goes_on_where_it_was(bank, base, tmp_path):
    store = tmp_path / "answers.jsonl"
    exam = qa.mmlu_exam(bank)
    first = qa.examine({"base": hf_examinee(f"hf/{base}")}, exam, store=store)
    whole = store.read_bytes()
    store.write_bytes(whole[: len(whole) // 2])  # in the middle of a line, but for a stroke of luck
    seen = []
    again = qa.examine(
        {"base": hf_examinee(f"hf/{base}")}, exam, store=store, progress=lambda *state: seen.append(state)
    )
    assert again.record() == first.record()
    assert sorted(store.read_bytes().splitlines()) == sorted(whole.splitlines())
    assert seen[0] == ("base", 0, 0)
    assert 0 < seen[1][1] < 64
    assert seen[-1] == ("base", 64, 64)


@given(st.integers(1, 200))
def test_a_last_line_is_dropped_wherever_it_was_cut_off(tmp_path_factory, left):
    store = tmp_path_factory.mktemp("store") / "answers.jsonl"
    qa._Kept(store).add("0" * 64, [-1.5, True])
    whole = store.read_bytes()
    kept = qa._Kept(store)
    kept.add("9f" * 32, [-2.5, False])
    last = store.read_bytes()[len(whole) : -1]
    store.write_bytes(whole + last[:left])
    again = qa._Kept(store)
    assert store.read_bytes() == whole
    assert (again.get("0" * 64), again.get("9f" * 32)) == ([-1.5, True], None)


def test_other_policies_do_not_share_answers(bank, base, tuned, tmp_path):
    store = tmp_path / "answers.jsonl"
    exam = qa.mmlu_exam(bank)
    qa.examine({"base": hf_examinee(f"hf/{base}")}, exam, store=store)
    kept = qa.examine({"bc": hf_examinee(f"hf/{tuned}")}, exam, store=store)
    assert kept.answers == qa.examine({"bc": hf_examinee(f"hf/{tuned}")}, exam).answers


@pytest.mark.parametrize(
    "text",
    [
        *("a diary\n", "a diary", '{"key": "x"}\n', "[]\n", '{"other"'),
        *('{"key": "sk-1234", "note": "mine"}', '{"key": "' + "a" * 64 + '", "note": 1}', '{"key": "' + "a" * 65),
    ],
)
def test_a_file_of_something_else_is_refused_and_left_as_it_is(bank, base, tmp_path, text):
    store = tmp_path / "diary.txt"
    store.write_text(text)
    with pytest.raises(StoreError, match="no answer"):
        qa.examine({"base": hf_examinee(f"hf/{base}")}, qa.mmlu_exam(bank), store=store)
    assert store.read_text() == text


def test_a_model_whose_probabilities_are_no_numbers_is_no_guesser(bank, tmp_path):
    folder = speaker(tmp_path / "broken")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.model.embed_tokens.weight.fill_(math.nan)
    model.save_pretrained(folder)
    store = tmp_path / "answers.jsonl"
    with pytest.raises(ModelError, match="nan"):
        qa.examine({"base": hf_examinee(f"hf/{folder}")}, qa.mmlu_exam(bank), store=store)
    assert not store.exists() or b"NaN" not in store.read_bytes()


# --- other tasks ----------------------------------------------------------------------------------


@pytest.fixture
def own_tasks(tmp_path):
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = [{"q": f"{n} boats and one more?", "options": ["few", "many"], "gold": n % 2} for n in range(30)]
    (tmp_path / "boats.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "boats.yaml").write_text(
        f"""task: boats
dataset_path: json
dataset_kwargs:
  data_files:
    test: {tmp_path / "boats.jsonl"}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{q}}}}"
doc_to_choice: options
doc_to_target: gold
"""
    )
    (folder / "written.yaml").write_text(
        f"""task: written
dataset_path: json
dataset_kwargs:
  data_files:
    test: {tmp_path / "boats.jsonl"}
test_split: test
output_type: generate_until
generation_kwargs:
  until: ["."]
  max_gen_toks: 4
doc_to_text: "{{{{q}}}}"
doc_to_target: "{{{{options[gold]}}}}"
metric_list:
  - metric: exact_match
"""
    )
    return folder


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_tasks_of_ones_own_are_asked_by_name(own_tasks, own_cache, base, tuned):
    exam = qa.task_exam(["boats", "written"], questions=12, include=own_tasks, seed=3)
    examinees = {"base": hf_examinee(f"hf/{base}"), "bc": hf_examinee(f"hf/{tuned}")}
    found = qa.examine(examinees, exam)
    assert {measure.task for measure in found.measures} == {"boats", "written"}
    boats = Measure("boats", "acc")
    assert found.chance("base", boats) == 0.5
    assert found.share("base", boats).n == 12
    assert found.chance("base", Measure("written", "exact_match")) is None
    assert found.settings["asked"] == {"boats": 12, "written": 12}
    again = qa.examine(examinees, qa.task_exam(["boats"], questions=12, include=own_tasks, seed=3))
    assert again.answers["bc", boats] == found.answers["bc", boats]


def test_a_task_whose_data_cannot_be_had_is_one_line(own_tasks, own_cache, base, tmp_path):
    (tmp_path / "boats.jsonl").unlink()
    with pytest.raises(ConfigurationError, match="Task 'boats' cannot be loaded") as caught:
        qa.examine({"base": hf_examinee(f"hf/{base}")}, qa.task_exam(["boats"], include=own_tasks))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_an_unknown_task_is_named_with_its_nearest(base):
    with pytest.raises(ConfigurationError, match=r"Unknown lm-eval task 'helaswag'.*Did you mean 'hellaswag'"):
        qa.examine({"base": hf_examinee(f"hf/{base}")}, qa.task_exam(["helaswag"]))


# --- the command ----------------------------------------------------------------------------------


def run(*arguments, code=0):
    result = CliRunner().invoke(app, ["qa", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def test_the_command_prints_a_table_and_writes_the_same_results_twice(zipped, base, tuned, tmp_path):
    call = ["--policy", f"base=hf/{base}", "--policy", f"bc=hf/{tuned}", "--data", zipped, "--questions", 6, "-q"]
    made = run(*call, "--output", tmp_path / "one.json", "--store", tmp_path / "answers.jsonl")
    assert "6 questions of mmlu letter, 6 questions of mmlu text, drawn from 8 on 2 subjects" in made.stdout
    assert "minus base" in made.stdout
    assert "25.0%" in made.stdout
    assert made.stderr == ""
    run(*call, "--output", tmp_path / "two.json")
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    record = json.loads((tmp_path / "one.json").read_text())
    assert {row["policy"] for row in record["rows"]} == {"base", "bc"}
    assert "river" not in json.dumps(record["rows"])
    shown = json.loads(run(*call, "--json").stdout)
    assert shown["rows"] == record["rows"]
    assert "answers" not in shown


def test_what_a_progress_function_prints_is_seen_and_lm_evals_own_bars_are_not(bank, base, capsys):
    def tell(label, done, of):
        print(f"{label} {done} of {of}", file=sys.stderr)

    qa.examine({"base": hf_examinee(f"hf/{base}")}, qa.mmlu_exam(bank), progress=tell)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "base 64 of 64"
    assert all(line.startswith("base ") for line in lines)


def test_progress_goes_to_stderr(zipped, base):
    made = run("--policy", f"base=hf/{base}", "--data", zipped, "--scoring", "letter", "--json")
    json.loads(made.stdout)
    assert "32/32" in made.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(["--policy", "scripted/fair"], "cannot be examined. Give hf/", id="no-model"),
        pytest.param(["--policy", "hf/nowhere/at/all"], "There is no folder", id="no-folder"),
        pytest.param(["--policy", "BASE", "--scoring", "poem"], "Unknown scoring 'poem'", id="scoring"),
        pytest.param(["--policy", "BASE", "--shots", "9"], "has fewer than 9 examples", id="shots"),
        pytest.param(["--policy", "BASE", "--subject", "seas"], "Unknown subject", id="subject"),
        pytest.param(["--policy", "BASE", "--task", "arc_easy"], "--data does not go together", id="task"),
        pytest.param(["--policy", "BASE", "--output", "no/where.json"], "its folder must exist", id="output"),
        pytest.param(["--policy", "BASE", "--policy", "BASE"], "given twice", id="twice"),
        pytest.param(["--policy", "BASE", "--data", "none.zip"], "There is no file or folder", id="data"),
    ],
)
def test_what_cannot_be_asked_is_one_line_and_leaves_no_file(zipped, base, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    options = [f"base=hf/{base}" if option == "BASE" else option for option in options]
    given = [] if "--data" in options else ["--data", zipped]
    output = [] if "--output" in options else ["--output", "qa.json"]
    made = run(*options, *given, *output, code=1)
    assert message in made.stderr
    assert made.stderr.count("\n") == 1
    assert made.stdout == ""
    assert sorted(tmp_path.iterdir()) == before


def test_importing_it_loads_neither_torch_nor_lm_eval():
    code = "import sys, sotopia_env.evaluation.qa, sotopia_env.cli.qa_command; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "lm_eval", "transformers", "datasets", "scipy"} & set(loaded)
