"""Behavior cloning: it learns, repeats itself exactly, goes on where it stopped, and says early what does not fit."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import sotopia_env
from sotopia_env import chat
from sotopia_env.conversation import Conversation
from sotopia_env.errors import ConfigurationError, MissingExtraError
from sotopia_env.trainers.datasets import Rows, rows
from sotopia_env.trainers.filters import Trajectory

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
pytest.importorskip("trl")
safetensors_torch = pytest.importorskip("safetensors.torch")
tokenizers = pytest.importorskip("tokenizers")

from sotopia_env.trainers import behavior_cloning  # noqa: E402
from sotopia_env.trainers.behavior_cloning import TrainSettings, finished, train  # noqa: E402

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LORA = TrainSettings(learning_rate=1e-2, max_steps=6, batch_size=2, logging_steps=1, dtype="float32", dropout=0.1)
FULL = TrainSettings(method="full", learning_rate=2e-3, max_steps=6, batch_size=2, logging_steps=1, dtype="float32")


# peft reads a name that transformers 5.24 deprecates.
PEFT = "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"


@pytest.fixture(scope="module", autouse=True)
def small_and_single_threaded():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(chat, "REPLY_RULES", "Reply with JSON.")
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def trajectories():
    tasks = sotopia_env.load_tasks("outcome/bargain", n=4)
    episodes = sotopia_env.rollout(tasks, ["scripted/fair", "scripted/tough"], max_turns=6, seed=0)
    return [Trajectory(episode, agent) for episode in episodes for agent in episode.agents]


@pytest.fixture(scope="module")
def tokenizer(trajectories):
    texts = []
    for episode, agent in trajectories:
        view = Conversation.replay(episode.task, episode.events, seed=episode.seed, max_turns=6).view(agent)
        texts += [message["content"] for message in chat.render(view)]
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    special = ["<|pad|>", "<|im_start|>", "<|im_end|>"]
    made.train_from_iterator(
        texts,
        tokenizers.trainers.BpeTrainer(
            vocab_size=800, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<|im_end|>", pad_token="<|pad|>", chat_template=CHATML
    )


def llama(tokenizer, seed: int = 0, **sizes):
    torch.manual_seed(seed)
    config = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**config, **sizes}))


@pytest.fixture(scope="module")
def base(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "base"
    llama(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(base, trajectories, tmp_path_factory):
    """A LoRA adapter of some steps, which several tests look at."""
    return train(base, trajectories, tmp_path_factory.mktemp("policies") / "bc", LORA)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    (path,) = Path(folder).glob("*.safetensors")
    return load_file(path)


def same(one: Path, other: Path, tolerance: float = 0.0) -> bool:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    return all(torch.allclose(first[name], second[name], rtol=0, atol=tolerance) for name in first)


def summed_loss(model, data: Rows) -> float:
    """Minus the log-probability of all targets, row by row, as plain transformers give it."""
    total = 0.0
    model.eval()
    for row in data:
        with torch.no_grad():
            logits = model(torch.tensor([row.input_ids])).logits[0, :-1].float()
        chosen = logits.log_softmax(-1).gather(1, torch.tensor(row.input_ids[1:])[:, None])[:, 0]
        total -= float((chosen * torch.tensor(row.target_mask[1:])).sum())
    return total


# --- what it makes ------------------------------------------------------------------------------------------


def test_conversation_and_prefix_rows_have_the_same_summed_loss_on_the_same_targets(base, tokenizer, trajectories):
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    whole, turns = (rows(trajectories, tokenizer, form=form) for form in ("conversation", "prefix"))
    assert whole.target_tokens == turns.target_tokens
    assert summed_loss(model, turns) == pytest.approx(summed_loss(model, whole), rel=1e-5)


def test_full_training_learns_and_writes_a_model_that_plain_transformers_loads(base, trajectories, tokenizer, tmp_path):
    result = train(base, trajectories, tmp_path / "full", FULL)
    assert result.losses[-1]["loss"] < result.losses[0]["loss"] - 0.3
    data = rows(trajectories, tokenizer)
    before, after = (
        summed_loss(transformers.AutoModelForCausalLM.from_pretrained(place), data) for place in (base, result.output)
    )
    assert after < 0.95 * before
    loaded = transformers.AutoTokenizer.from_pretrained(result.output)
    assert loaded.chat_template == CHATML
    assert rows(trajectories, loaded) == data


def test_the_first_loss_is_the_mean_over_the_targets_of_the_step(base, trajectories, tokenizer, tmp_path):
    settings = TrainSettings(max_steps=1, batch_size=3, order="sequential", logging_steps=1, dtype="float32", dropout=0)
    result = train(base, trajectories, tmp_path / "one", settings)
    data = rows(trajectories[:3], tokenizer)
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    assert result.losses[0]["loss"] == pytest.approx(summed_loss(model, data) / data.target_tokens, rel=1e-4)
    assert result.tokens == data.tokens


def test_a_lora_folder_holds_the_adapter_the_tokenizer_and_the_record(adapter, base, trajectories, tokenizer):
    names = {path.name for path in adapter.output.iterdir()}
    assert names == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "tokenizer.json",
        "tokenizer_config.json",
        "training.json",
    }
    config = json.loads((adapter.output / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base)
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (8, 16, 0.1)
    assert {name.rpartition(".")[2] for name in config["target_modules"]} == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    }
    record = json.loads((adapter.output / "training.json").read_text())
    assert record["settings"] == json.loads(json.dumps(LORA.record()))
    assert record["data"] == rows(trajectories, tokenizer).record()
    assert record["steps"] == 6
    assert [entry["step"] for entry in record["losses"]] == [1, 2, 3, 4, 5, 6]
    tokens = [entry["tokens"] for entry in record["losses"]]
    assert tokens == sorted(tokens)
    assert tokens[-1] == adapter.tokens
    assert record["versions"]["sotopia-env"] == sotopia_env.__version__
    assert adapter.seconds > 0
    assert finished(adapter.output) == adapter


@pytest.mark.filterwarnings(PEFT)
def test_the_adapter_loads_in_plain_peft_with_the_loss_that_its_training_ended_at(
    adapter, base, trajectories, tokenizer, tmp_path
):
    # The next training begins with the adapter as this package loads it; its first loss is taken before any step.
    settings = TrainSettings(max_steps=1, batch_size=8, order="sequential", logging_steps=1, dtype="float32")
    data = rows(trajectories, tokenizer)
    with pytest.MonkeyPatch.context() as patched:
        _without_dropout(patched)
        following = train(adapter.output, data, tmp_path / "next", settings)
    plain = peft.PeftModel.from_pretrained(
        transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter.output
    )
    automatic = peft.AutoPeftModelForCausalLM.from_pretrained(adapter.output, dtype=torch.float32)
    expected = summed_loss(plain, data)
    assert following.losses[0]["loss"] == pytest.approx(expected / data.target_tokens, abs=1e-4)
    assert summed_loss(automatic, data) == pytest.approx(expected, rel=1e-6)


def _without_dropout(patched) -> None:
    load = peft.PeftModel.from_pretrained

    def quiet(*arguments, **options):
        model = load(*arguments, **options)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        return model

    patched.setattr(peft.PeftModel, "from_pretrained", quiet)


@pytest.mark.filterwarnings(PEFT)
def test_an_hf_agent_plays_the_folder_as_plain_peft_does(adapter, trajectories, tokenizer, monkeypatch):
    from sotopia_env.agents import engine
    from sotopia_env.agents.hf import HFAgent

    steps: list[tuple[list[int], torch.Tensor]] = []  # what a token was drawn behind, and from

    def listening(drawn_rows, logits, draw=engine._drawn):
        steps.extend(([*row.prompt, *row.made], each) for row, each in zip(drawn_rows, logits.clone(), strict=True))
        return draw(drawn_rows, logits)

    monkeypatch.setattr(engine, "_drawn", listening)
    agent = HFAgent(str(adapter.output), temperature=0, max_tokens=12, retry=False, dtype="fp32")
    model = peft.AutoPeftModelForCausalLM.from_pretrained(adapter.output, dtype=torch.float32).eval()
    tasks = list({trajectory.episode.task.id: trajectory.episode.task for trajectory in trajectories}.values())[:2]
    for task in tasks:
        view = Conversation(task, seed=0).view("agent_0")
        asked = tokenizer.apply_chat_template(chat.render(view), add_generation_prompt=True, return_tensors="pt")
        made = model.generate(**asked, max_new_tokens=12, do_sample=False)
        text = tokenizer.decode(made[0, asked["input_ids"].shape[1] :], skip_special_tokens=True)
        assert _reply(agent, view) == text
    assert len(steps) > 12
    for ids, logits in steps:
        with torch.no_grad():
            plain = model(torch.tensor([ids])).logits[0, -1]
        assert torch.allclose(logits.log_softmax(-1), plain.log_softmax(-1), rtol=0, atol=1e-4)
    with torch.no_grad(), model.disable_adapter():  # the bound is close enough to tell the adapter from its base
        bare = model(torch.tensor([ids])).logits[0, -1]
    assert not torch.allclose(logits.log_softmax(-1), bare.log_softmax(-1), rtol=0, atol=1e-2)


def _reply(agent, view) -> str:
    """What the agent's model says, before it is read into an action."""
    from sotopia_env import aio
    from sotopia_env.agents.hf import _Turn

    return aio.run(_Turn(agent, view).complete(chat.render(view))).text


# --- the same again -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("settings", "seeds"), [(LORA, (5, 5, 6)), (FULL, (5, 5))], ids=["lora", "full"])
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(base, trajectories, tmp_path, settings, seeds):
    settings = replace(settings, max_steps=3)
    for place, seed in enumerate(seeds):
        torch.manual_seed(random.randrange(1000))  # whatever the process did before
        train(base, trajectories, tmp_path / str(place), settings, seed=seed)
    assert same(tmp_path / "0", tmp_path / "1")
    assert len(seeds) < 3 or not same(tmp_path / "0", tmp_path / "2")


def test_training_leaves_global_random_state_and_the_process_as_they_were(base, trajectories, tmp_path, capfd):
    import datasets
    from huggingface_hub import constants
    from transformers.utils import logging

    def state():
        return (
            random.getstate(),
            np.random.get_state()[1].tolist(),
            torch.get_rng_state().tolist(),
            logging.get_verbosity(),
            logging.is_progress_bar_enabled(),
            datasets.are_progress_bars_disabled(),
            constants.HF_HUB_DISABLE_TELEMETRY,
            dict(os.environ),
        )

    before = state()
    train(base, trajectories, tmp_path / "policy", LORA)
    assert state() == before
    assert capfd.readouterr() == ("", "")


class StoppedError(Exception):
    pass


def stop_at(step: int):
    def report(entry: dict[str, float]) -> None:
        if entry["step"] == step:
            raise StoppedError

    return report


@pytest.mark.parametrize(("method", "optimizer"), [("lora", "adamw"), ("full", "adamw"), ("full", "muon")])
def test_an_interrupted_training_goes_on_to_the_same_weights_and_losses(
    base, trajectories, tmp_path, method, optimizer
):
    settings = TrainSettings(
        method=method,
        optimizer=optimizer,
        learning_rate=1e-2,
        epochs=2,
        batch_size=2,
        logging_steps=1,
        save_steps=3,
        dtype="float32",
    )
    whole = train(base, trajectories, tmp_path / "whole", settings)
    with pytest.raises(StoppedError):
        train(base, trajectories, tmp_path / "cut", settings, progress=stop_at(5))
    assert not (tmp_path / "cut").exists()
    assert finished(tmp_path / "cut") is None
    seen: list[dict[str, float]] = []
    resumed = train(base, trajectories, tmp_path / "cut", settings, progress=seen.append)
    assert (whole.resumed_from, resumed.resumed_from, resumed.steps) == (0, 3, 8)
    assert [entry["step"] for entry in seen] == [4, 5, 6, 7, 8]
    assert resumed.losses == whole.losses
    assert same(tmp_path / "whole", tmp_path / "cut", 1e-6)
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "cut"}


def test_losses_are_the_same_wherever_checkpoints_fall_between_entries(base, trajectories, tmp_path):
    settings = TrainSettings(max_steps=7, batch_size=1, logging_steps=5, save_steps=3, dtype="float32")
    whole = train(base, trajectories, tmp_path / "whole", settings)
    assert [entry["step"] for entry in whole.losses] == [3, 5, 6, 7]
    with pytest.raises(StoppedError):
        train(base, trajectories, tmp_path / "cut", settings, progress=stop_at(5))
    resumed = train(base, trajectories, tmp_path / "cut", settings)
    assert resumed.resumed_from == 3
    assert resumed.losses == whole.losses


def test_without_resume_an_interrupted_training_begins_anew(base, trajectories, tmp_path):
    settings = TrainSettings(max_steps=4, batch_size=2, logging_steps=1, save_steps=1, dtype="float32")
    with pytest.raises(StoppedError):
        train(base, trajectories, tmp_path / "policy", settings, progress=stop_at(3))
    assert train(base, trajectories, tmp_path / "policy", settings, resume=False).resumed_from == 0


def test_what_an_interrupted_training_of_something_else_left_is_not_gone_on_with(base, trajectories, tmp_path):
    settings = TrainSettings(max_steps=4, batch_size=2, logging_steps=1, save_steps=1, dtype="float32")
    with pytest.raises(StoppedError):
        train(base, trajectories, tmp_path / "policy", settings, progress=stop_at(3))
    assert train(base, trajectories[:4], tmp_path / "policy", settings).resumed_from == 0


KILLED = """
import os, sys
from sotopia_env.trainers.behavior_cloning import TrainSettings, train
from sotopia_env.trainers.datasets import Row, Rows
row = Row([5, 6, 7, 8] * 8, [0, 1, 1, 1] * 8, "e", "agent_0", (0,))
def report(entry):
    if entry["step"] == 4 and "kill" in sys.argv:
        os.kill(os.getpid(), 9)
train(sys.argv[1], Rows((row,) * 12), sys.argv[2], TrainSettings(
    batch_size=2, logging_steps=1, save_steps=2, dtype="float32", learning_rate=1e-2), progress=report)
"""


PARALLEL = """
import sys, torch
from sotopia_env.trainers.behavior_cloning import TrainSettings, train
from sotopia_env.trainers.datasets import Row, Rows
torch.set_num_threads(1)
data = Rows(tuple(Row([5 + n, 6, 7, 8] * (n + 2), [0, 1, 1, n % 2] * (n + 2), "e", "agent_0", (0,)) for n in range(12)))
train(sys.argv[1], data, sys.argv[2], TrainSettings(
    batch_size=int(sys.argv[3]), order="sequential", logging_steps=1, save_steps=1, dtype="float32", learning_rate=1e-2,
    dropout=0.0))
"""


@pytest.mark.slow
def test_two_processes_train_the_same_adapter_as_one(base, tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    script = tmp_path / "script.py"
    script.write_text(PARALLEL)
    for folder, size, start in (("one", "4", [sys.executable]), ("two", "2", launch)):
        command = [*start, str(script), str(base), str(tmp_path / folder), size]
        subprocess.run(command, check=True, capture_output=True)
    assert same(tmp_path / "one", tmp_path / "two", 1e-5)
    one, two = (finished(tmp_path / folder).losses for folder in ("one", "two"))
    assert [entry["tokens"] for entry in one] == [entry["tokens"] for entry in two]
    assert [entry["loss"] for entry in one] == pytest.approx([entry["loss"] for entry in two], rel=1e-5)


@pytest.mark.slow
def test_a_killed_process_never_leaves_a_folder_that_looks_finished(base, tmp_path):
    def run(folder: str, *more: str) -> int:
        command = [sys.executable, "-c", KILLED, str(base), str(tmp_path / folder), *more]
        return subprocess.run(command, check=False, capture_output=True).returncode

    assert run("cut", "kill") == -9
    assert not (tmp_path / "cut").exists()
    assert run("cut") == run("whole") == 0
    assert finished(tmp_path / "cut").resumed_from > 0
    assert same(tmp_path / "cut", tmp_path / "whole", 1e-6)


def test_a_training_stopped_while_its_folder_is_moved_goes_on_from_its_checkpoint(
    base, trajectories, tmp_path, monkeypatch
):
    settings = TrainSettings(max_steps=4, batch_size=2, logging_steps=1, save_steps=2, dtype="float32")

    def stopped(*_):
        raise StoppedError

    with monkeypatch.context() as patched:
        patched.setattr(behavior_cloning.os, "replace", stopped)
        with pytest.raises(StoppedError):
            train(base, trajectories, tmp_path / "policy", settings)
    assert finished(tmp_path / "policy") is None
    again = train(base, trajectories, tmp_path / "policy", settings)
    assert again.resumed_from == 4
    assert [entry["step"] for entry in again.losses] == [1, 2, 3, 4]
    assert {path.name for path in (tmp_path / "policy").iterdir()} >= {"adapter_model.safetensors", "training.json"}
    assert not (tmp_path / "policy" / "checkpoints").exists()


def test_a_record_that_cannot_be_read_is_named(base, trajectories, tmp_path):
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "training.json").write_text('{"steps": 1}')
    with pytest.raises(ConfigurationError, match=r"holds a training.json that cannot be read"):
        train(base, trajectories, tmp_path / "policy", LORA)


def test_what_is_finished_is_not_trained_again(adapter, base, trajectories, monkeypatch):
    monkeypatch.setattr(behavior_cloning, "_run", lambda *_: pytest.fail("trained again"))
    again = train(base, trajectories, adapter.output, LORA)
    assert again == adapter
    assert not again.is_new


def test_a_folder_with_another_result_is_left_alone(adapter, base, trajectories):
    with pytest.raises(ConfigurationError, match="holds the result of another training"):
        train(base, trajectories, adapter.output, LORA, seed=1)


def test_moving_the_base_does_not_make_it_another_training(adapter, base, trajectories, tmp_path):
    shutil.copytree(base, tmp_path / "moved")
    assert not train(tmp_path / "moved", trajectories, adapter.output, LORA).is_new


# --- settings that count ------------------------------------------------------------------------------------


def test_accumulated_micro_batches_take_the_same_step_as_one_batch(base, trajectories, tmp_path):
    common = {"max_steps": 3, "order": "sequential", "dropout": 0.0, "dtype": "float32", "learning_rate": 1e-2}
    one, four = tmp_path / "one", tmp_path / "four"
    train(base, trajectories, one, TrainSettings(batch_size=4, **common))
    train(base, trajectories, four, TrainSettings(batch_size=1, gradient_accumulation=4, **common))
    assert same(one, four, 1e-4)
    train(base, trajectories, tmp_path / "none", TrainSettings(batch_size=1, **common))
    assert not same(one, tmp_path / "none", 1e-4)


def test_packed_rows_do_not_see_each_other(base, trajectories, tmp_path, capfd):
    # All rows of the only step are packed into few sequences, or padded in one batch: the same loss.
    common = {"max_steps": 1, "order": "sequential", "dropout": 0.0, "dtype": "float32", "logging_steps": 1}
    packed = TrainSettings(batch_size=8, packing=True, max_length=1400, **common)
    plain = TrainSettings(batch_size=8, max_length=1400, **common)
    results = [train(base, trajectories, tmp_path / str(n), each) for n, each in enumerate((packed, plain))]
    assert results[0].losses[0]["loss"] == pytest.approx(results[1].losses[0]["loss"], rel=1e-4)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "changes",
    [
        {"order": "group_by_length"},
        {"dtype": "bfloat16"},
        {"gradient_checkpointing": True},
        {"method": "full", "optimizer": "muon"},
    ],
)
def test_other_ways_to_train_also_learn(base, trajectories, tmp_path, changes):
    settings = TrainSettings(**{"learning_rate": 1e-2, "max_steps": 6, "batch_size": 2, "logging_steps": 1, **changes})
    losses = [entry["loss"] for entry in train(base, trajectories, tmp_path / "policy", settings).losses]
    assert losses[-1] < losses[0] - 0.05


def test_the_last_step_is_always_an_entry(base, trajectories, tmp_path):
    settings = TrainSettings(max_steps=5, batch_size=2, logging_steps=3, dtype="float32")
    result = train(base, trajectories, tmp_path / "policy", settings)
    assert [entry["step"] for entry in result.losses] == [3, 5]
    assert result.loss == result.losses[-1]["loss"]


@pytest.mark.parametrize("form", ["prefix", "paper"])
def test_rows_of_turns_are_trained_on_too(base, trajectories, tmp_path, form):
    settings = TrainSettings(form=form, max_steps=2, batch_size=2, logging_steps=1, dtype="float32")
    result = train(base, trajectories, tmp_path / "policy", settings)
    assert result.data["form"] == form
    assert result.data["rows"] == len(rows(trajectories, transformers.AutoTokenizer.from_pretrained(base), form=form))


@pytest.mark.filterwarnings(PEFT)
def test_qlora_trains_an_adapter_on_a_four_bit_base_here(base, trajectories, tokenizer, tmp_path):
    pytest.importorskip("bitsandbytes")
    settings = TrainSettings(method="qlora", learning_rate=1e-2, max_steps=8, batch_size=2, logging_steps=1)
    result = train(base, trajectories, tmp_path / "qlora", settings)
    assert result.losses[-1]["loss"] < result.losses[0]["loss"] - 0.1
    config = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    quantized = transformers.AutoModelForCausalLM.from_pretrained(base, quantization_config=config, device_map="cpu")
    kinds = {type(module).__name__ for module in quantized.modules()}
    assert "Linear4bit" in kinds
    data = rows(trajectories, tokenizer)
    before = summed_loss(quantized, data)
    assert summed_loss(peft.PeftModel.from_pretrained(quantized, result.output), data) < 0.98 * before


def test_the_next_round_goes_on_with_the_adapter_on_the_same_base(adapter, base, trajectories, tmp_path):
    settings = TrainSettings(learning_rate=1e-4, max_steps=1, warmup=0.0, dtype="float32", rank=4)
    following = train(adapter.output, trajectories, tmp_path / "sr", settings)
    assert following.base == str(base)
    config = json.loads((following.output / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["r"]) == (str(base), 8)  # the adapter's own rank stays
    moved = [float((a - b).abs().max()) for a, b in zip(*_pairs(adapter.output, following.output), strict=True)]
    assert 0 < max(moved) < 2e-4
    also = train(base, trajectories, tmp_path / "also", settings, adapter=adapter.output)
    assert same(following.output, also.output)


def _pairs(one: Path, other: Path) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    first, second = weights(one), weights(other)
    return [first[name] for name in sorted(first)], [second[name] for name in sorted(second)]


def test_the_papers_settings():
    settings = TrainSettings.paper(epochs=5.0)
    assert settings.method == "qlora"
    assert (settings.rank, settings.alpha, settings.dropout) == (8, 16, 0.05)
    assert (settings.learning_rate, settings.schedule, settings.warmup) == (5e-5, "cosine", 0.03)
    assert (settings.batch_size, settings.max_length, settings.form) == (4, 4096, "paper")
    assert (settings.epochs, TrainSettings.paper().epochs) == (5, 20)


# --- what does not fit --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "loar"}, "Unknown method 'loar'.*Did you mean 'lora'"),
        ({"rank": 0}, "rank is 0, but must be a whole number of 1 or more"),
        ({"dropout": 1.0}, "dropout is 1.0, but must be a number at least 0 and below 1"),
        ({"learning_rate": 0}, "learning_rate is 0, but must be a number above 0"),
        ({"learning_rate": math.nan}, "learning_rate is nan"),
        ({"max_steps": 2.5}, "max_steps is 2.5"),
        ({"schedule": "sine"}, "Unknown schedule 'sine'"),
        ({"optimizer": "moun"}, "Unknown optimizer 'moun'.*Did you mean 'muon'"),
        ({"schedule": "cosine_with_min_lr"}, "Unknown schedule 'cosine_with_min_lr'"),  # it needs a lowest rate
        ({"epochs": math.inf}, "epochs is inf, but must be a number above 0"),
        ({"learning_rate": math.inf}, "learning_rate is inf"),
        ({"packing": "maybe"}, "packing is 'maybe', but must be true or false"),
        ({"keep_none": None}, "keep_none is None"),
        ({"gradient_checkpointing": 7}, "gradient_checkpointing is 7"),
        ({"target_modules": 5}, "target_modules is 5, but must be a list of one text or more"),
        ({"target_modules": ()}, r"target_modules is \(\)"),
        ({"target_modules": ["q_proj", ""]}, "target_modules is .* none of them empty"),
        ({"target_modules": "q_proj("}, r"'q_proj\(', which is no regular expression"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        TrainSettings(**options)


@pytest.mark.parametrize("schedule", behavior_cloning.SCHEDULES)
def test_every_schedule_needs_nothing_more_than_its_name(schedule):
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])
    assert transformers.get_scheduler(schedule, optimizer, num_warmup_steps=1, num_training_steps=3)


@pytest.mark.parametrize("modules", ["nosuch", ("q_proj", "nosuch"), "q_proj"])
def test_modules_that_the_model_has_not_are_refused_and_those_that_fit_are_named(base, trajectories, tmp_path, modules):
    with pytest.raises(ConfigurationError, match=r"has no such module.*'down_proj', .*'v_proj'\]") as caught:
        train(base, trajectories, tmp_path / "policy", TrainSettings(target_modules=modules, max_steps=1))
    assert "lm_head" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("modules", [("q_proj",), ["self_attn.q_proj"], r".*\.q_proj"])
def test_modules_are_named_by_the_end_of_their_names_or_by_a_regular_expression(base, trajectories, tmp_path, modules):
    settings = TrainSettings(target_modules=modules, max_steps=1, dtype="float32")
    train(base, trajectories, tmp_path / "policy", settings)
    names = safetensors_torch.load_file(tmp_path / "policy" / "adapter_model.safetensors")
    assert {name.split(".")[-3] for name in names} == {"q_proj"}


def test_modules_that_no_adapter_fits_are_refused_in_one_line(base, trajectories, tmp_path):
    with pytest.raises(ConfigurationError, match=r"cannot be trained with these settings: ValueError: .*not supported"):
        train(base, trajectories, tmp_path / "policy", TrainSettings(target_modules=("norm",), max_steps=1))


def test_a_base_without_chat_template_is_refused(base, trajectories, tmp_path):
    shutil.copytree(base, tmp_path / "plain")
    (tmp_path / "plain" / "chat_template.jinja").unlink()
    with pytest.raises(ConfigurationError, match="has no chat template"):
        train(tmp_path / "plain", trajectories, tmp_path / "policy", LORA)


def test_nothing_to_train_on_is_refused_with_the_counts(base, trajectories, tmp_path):
    with pytest.raises(ConfigurationError, match="nothing to train on: 0 trajectories gave no rows"):
        train(base, [], tmp_path / "policy", LORA)
    with pytest.raises(ConfigurationError, match=r"8 trajectories gave no rows \(8 too long\)"):
        train(base, trajectories, tmp_path / "policy", TrainSettings(max_length=5))
    assert not list(tmp_path.iterdir())


def test_rows_longer_than_the_model_are_cut_or_refused(tokenizer, trajectories, tmp_path):
    llama(tokenizer, max_position_embeddings=300).save_pretrained(tmp_path / "short")
    tokenizer.save_pretrained(tmp_path / "short")
    whole = rows(trajectories, tokenizer)
    assert max(len(row.input_ids) for row in whole) > 300
    with pytest.raises(ConfigurationError, match="has 300 positions"):
        train(tmp_path / "short", whole, tmp_path / "policy", LORA)
    cut = train(tmp_path / "short", trajectories, tmp_path / "policy", LORA)
    assert cut.data["cut_turns"] > 0


def test_an_adapter_of_another_base_is_refused(adapter, tokenizer, trajectories, tmp_path):
    llama(tokenizer, seed=1, hidden_size=48).save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(ConfigurationError, match="was made for the base"):
        train(tmp_path / "other", trajectories, tmp_path / "policy", LORA, adapter=adapter.output)


def test_a_folder_that_is_no_adapter_and_an_adapter_given_twice_are_refused(adapter, base, trajectories, tmp_path):
    with pytest.raises(ConfigurationError, match="is no adapter"):
        train(base, trajectories, tmp_path / "policy", LORA, adapter=base)
    with pytest.raises(ConfigurationError, match="is an adapter itself"):
        train(adapter.output, trajectories, tmp_path / "policy", LORA, adapter=adapter.output)
    with pytest.raises(ConfigurationError, match="trains all weights, but"):
        train(adapter.output, trajectories, tmp_path / "policy", FULL)


@pytest.mark.parametrize(
    ("settings", "missing", "message"),
    [
        (LORA, "trl", r"needs trl, which is not installed.*pip install 'sotopia-env\[train\]'"),
        (TrainSettings(method="qlora"), "bitsandbytes", "needs bitsandbytes"),
    ],
)
def test_a_missing_library_is_named(base, trajectories, tmp_path, monkeypatch, settings, missing, message):
    find = behavior_cloning.importlib.util.find_spec
    monkeypatch.setattr(
        behavior_cloning.importlib.util, "find_spec", lambda name, *a: None if name == missing else find(name, *a)
    )
    with pytest.raises(MissingExtraError, match=message):
        train(base, trajectories, tmp_path / "policy", settings)


def test_a_place_that_cannot_be_written_is_refused_before_training(base, trajectories, tmp_path, monkeypatch):
    monkeypatch.setattr(behavior_cloning, "_run", lambda *_: pytest.fail("trained"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        train(base, trajectories, tmp_path / "file" / "policy", LORA)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(ConfigurationError, match="is no finished training"):
        train(base, trajectories, tmp_path / "mine", LORA)


def test_a_link_to_an_empty_folder_is_filled_where_it_leads(base, trajectories, tmp_path):
    (tmp_path / "disk" / "mine").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "mine")
    settings = TrainSettings(max_steps=1, dtype="float32")
    assert train(base, trajectories, tmp_path / "link", settings).is_new
    assert (tmp_path / "link").is_symlink()
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["mine"]
    assert not train(base, trajectories, tmp_path / "link", settings).is_new


def test_a_result_that_cannot_be_moved_to_its_place_is_told_in_one_line_and_not_lost(
    base, trajectories, tmp_path, monkeypatch
):
    settings = TrainSettings(max_steps=2, batch_size=2, logging_steps=1, save_steps=1, dtype="float32")

    def denied(*_):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(behavior_cloning.os, "replace", denied)
        with pytest.raises(ConfigurationError, match=r"Permission denied.*the same call goes on from there"):
            train(base, trajectories, tmp_path / "policy", settings)
    assert train(base, trajectories, tmp_path / "policy", settings).resumed_from == 2


def test_a_disk_that_is_too_small_is_refused_before_training(base, trajectories, tmp_path, monkeypatch):
    import trl.trainer.sft_trainer

    monkeypatch.setattr(trl.trainer.sft_trainer.SFTTrainer, "train", lambda *_, **__: pytest.fail("trained"))
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(behavior_cloning.shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 10**6, 10**6))
    with pytest.raises(ConfigurationError, match=r"has 1 MB free, but .* may take 20 MB"):
        train(base, trajectories, tmp_path / "policy", LORA)


def test_a_disk_that_fills_up_ends_in_one_line_and_can_be_gone_on_from(base, trajectories, tmp_path, monkeypatch):
    import trl.trainer.sft_trainer

    settings = TrainSettings(max_steps=4, batch_size=2, logging_steps=1, save_steps=1, dtype="float32")
    save = trl.trainer.sft_trainer.SFTTrainer._save_checkpoint

    def full(self, model, trial):
        if self.state.global_step == 3:
            raise OSError(28, "No space left on device")
        save(self, model, trial)

    with monkeypatch.context() as patched:
        patched.setattr(trl.trainer.sft_trainer.SFTTrainer, "_save_checkpoint", full)
        with pytest.raises(ConfigurationError, match=r"No space left on device.*goes on from there"):
            train(base, trajectories, tmp_path / "policy", settings)
    assert train(base, trajectories, tmp_path / "policy", settings).resumed_from == 2
