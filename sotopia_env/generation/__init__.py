"""New training tasks from a language model, as SOTOPIA-pi makes them.

    from sotopia_env.generation import Plan, generate
    batch = generate(Plan("openai/gpt-4o-mini", n=100, seed=0), journal="tasks.replies")
    batch.tasks, batch.report()

An inspiration and some examples go to a model; its reply is read strictly, checked by rule, compared with the
batch and with every task that is used for evaluation, and cast. What fails is counted by reason. Left out of
the paper (arXiv 2403.08715, section 2.1): drawing ten pairs of characters per task; cast once here, and play
a task with other characters by casting it again.
"""

from sotopia_env.generation.batch import REASONS, Batch, Plan, Result, generate
from sotopia_env.generation.casting import Company, company_of, everyday_company, read_company
from sotopia_env.generation.drafts import Draft, read_draft
from sotopia_env.generation.duplicates import Scene, evaluation_scenes, read_scenes
from sotopia_env.generation.inspirations import Inspiration, own_inspirations, read_inspirations
from sotopia_env.generation.validation import RULES, Breach, breaches

__all__ = [
    "Batch",
    "Breach",
    "Company",
    "Draft",
    "Inspiration",
    "Plan",
    "REASONS",
    "RULES",
    "Result",
    "Scene",
    "breaches",
    "company_of",
    "evaluation_scenes",
    "everyday_company",
    "generate",
    "own_inspirations",
    "read_company",
    "read_draft",
    "read_inspirations",
    "read_scenes",
]
