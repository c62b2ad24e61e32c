"""The outcome judge: arithmetic over the transcript, for tasks whose rules bind."""

from __future__ import annotations

from sotopia_env.episodes import Episode, Score, Verdict
from sotopia_env.errors import ConfigurationError, JudgeError
from sotopia_env.rules import RULES, outcomes, rules_of
from sotopia_env.tasks import Task


class OutcomeJudge:
    """Computes goal, secret and financial scores and the measures of a task with rules.

    It fills only what it can compute; every other dimension is absent, not 0. The formulas stand in
    `sotopia_env.rules`.
    """

    name = "outcome"
    inline = True  # pure arithmetic: rollouts need no worker thread for it

    def covers(self, task: Task) -> frozenset[str]:
        """The dimensions filled for every seat of `task`.

        Raises:
            ConfigurationError: If no rules bind in the task, so that nothing can be computed.
        """
        rules = rules_of(task)
        if rules is None:
            raise ConfigurationError(
                f"Task {task.id!r} has no rules that bind, so the outcome judge cannot score it. Use an LLM judge "
                f"(judge='openai/<model>'), or tasks whose terms['rules'] is one of {sorted(RULES)}."
            )
        filled = {"goal"}
        if rules.financial and outcomes(task).zone:
            filled.add("financial_and_material_benefits")
        return frozenset(filled)

    def score(self, episode: Episode) -> Verdict:
        """Score an episode from its events.

        Raises:
            JudgeError: If the task has no rules, or the conversation broke off.
        """
        rules = rules_of(episode.task)
        if rules is None:
            raise JudgeError(f"Task {episode.task.id!r} has no rules that bind; nothing to compute.", episode=episode)
        if episode.ended_by is None:
            raise JudgeError("The conversation broke off, so it has no outcome.", episode=episode)
        outcome = rules.score(episode.task, episode.events)
        scores: dict[str, dict[str, Score]] = {}
        for seat, agent in enumerate(episode.task.agents):
            own = {"goal": Score(value=outcome.goal[seat], reason=outcome.reasons[seat])}
            if outcome.financial is not None:
                own["financial_and_material_benefits"] = Score(
                    value=outcome.financial[seat], reason=outcome.reasons[seat]
                )
            secret = outcome.secret[seat]
            if secret is not None:
                own["secret"] = Score(value=secret, reason="the secret value was said" if secret else "never said")
            scores[agent] = own
        return Verdict(judge=self.name, scores=scores, measures=outcome.measures)
