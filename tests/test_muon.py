"""Muon: hidden matrices move by orthogonal steps of AdamW's size, everything else as under AdamW."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from sotopia_env.trainers.muon import Muon, divided, optimizer_of, orthogonal  # noqa: E402


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def llama(tied: bool = True):
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=50,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            tie_word_embeddings=tied,
        )
    )


@pytest.mark.parametrize("shape", [(32, 32), (16, 48), (48, 16), (1, 8)])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_what_comes_out_has_the_same_singular_vectors_and_values_near_one(shape, scale):
    matrix = scale * torch.randn(shape)
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    middle = u.T @ orthogonal(matrix) @ vh.T
    values = middle.diagonal()
    assert torch.allclose(middle, torch.diag(values), atol=1e-3)
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_a_gradient_of_zeros_moves_nothing():
    weight = torch.nn.Parameter(torch.ones(4, 4))
    weight.grad = torch.zeros(4, 4)
    Muon([{"params": [weight], "orthogonal": True}], lr=0.1, weight_decay=0.0).step()
    assert torch.equal(weight, torch.ones(4, 4))


def test_its_steps_are_those_of_torchs_muon_up_to_the_rounding_of_bfloat16():
    start = torch.randn(24, 16)
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    one = Muon([{"params": [ours], "orthogonal": True}], lr=0.02, weight_decay=0.1)
    other = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for _ in range(5):
        gradient = torch.randn(24, 16)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        one.step()
        other.step()
    moved = (theirs - start).norm()
    assert moved > 0.1
    assert (ours - theirs).norm() < 0.03 * moved


def test_groups_that_are_not_orthogonal_move_as_under_adamw():
    start = torch.randn(8, 8)
    ours, theirs, matrix = (torch.nn.Parameter(start.clone()) for _ in range(3))
    options = {"lr": 0.02, "betas": (0.9, 0.98), "weight_decay": 0.1}
    one = Muon([{"params": [ours]}, {"params": [matrix], "orthogonal": True}], **options)
    other = torch.optim.AdamW([theirs], **options)
    for _ in range(3):
        gradient = torch.randn(8, 8)
        for weight in (ours, theirs, matrix):
            weight.grad = gradient.clone()
        one.step()
        other.step()
    assert torch.equal(ours, theirs)
    assert not torch.allclose(matrix, theirs, atol=1e-3)


@pytest.mark.parametrize("tied", [True, False])
def test_hidden_matrices_are_told_from_embeddings_output_and_norms(tied):
    model = llama(tied)
    hidden, others = ({id(each) for each in part} for part in divided(model))
    named = {name: id(weight) for name, weight in model.named_parameters()}
    assert {name for name in named if named[name] in hidden} == {name for name in named if "_proj" in name}
    assert hidden | others == set(named.values())
    assert not hidden & others


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft reads the old name
def test_of_a_model_with_an_adapter_only_the_adapter_is_trained():
    model = peft.get_peft_model(llama(), peft.LoraConfig(r=2, target_modules="all-linear"))
    hidden, others = divided(model)
    assert len(hidden) == 14
    assert not others


def test_a_saved_state_goes_on_with_the_same_steps():
    def made(seed):
        torch.manual_seed(seed)
        model = llama()
        return model, optimizer_of()(model, lr=0.01, weight_decay=0.0)

    def step(model, optimizer, number):
        torch.manual_seed(number)
        ids = torch.randint(0, 50, (2, 8))
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    model, optimizer = made(1)
    for number in range(3):
        step(model, optimizer, number)
    resumed, other = made(2)
    resumed.load_state_dict(model.state_dict())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for number in range(3, 6):
        step(model, optimizer, number)
        step(resumed, other, number)
    for one, two in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, two)
