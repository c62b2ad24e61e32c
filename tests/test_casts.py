"""Every seat is taken against every partner, and tasks are dealt out evenly."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sotopia_env.trainers.casts import casts, dealt


def test_every_seat_is_cast_against_every_partner():
    assert casts("me", ["one", "two"], 2) == [["me", "one"], ["one", "me"], ["me", "two"], ["two", "me"]]
    assert casts("me", ["one"], 3) == [["me", "one", "one"], ["one", "me", "one"], ["one", "one", "me"]]


def test_one_that_plays_with_itself_does_so_once():
    assert casts("me", [], 3) == [["me", "me", "me"]]
    assert casts("me", ["one", "me"], 2) == [["me", "one"], ["one", "me"], ["me", "me"]]


@given(tasks=st.lists(st.integers(), max_size=30, unique=True), number=st.integers(1, 8))
def test_every_task_is_dealt_to_one_cast_and_none_gets_two_more_than_another(tasks, number):
    parts = dict(dealt(tasks, range(number)))
    assert sorted(task for part in parts.values() for task in part) == sorted(tasks)
    sizes = [len(parts.get(cast, ())) for cast in range(number)]
    assert max(sizes) - min(sizes) <= 1
    assert all(parts.values())


@given(tasks=st.lists(st.integers(), min_size=1, max_size=30), number=st.integers(1, 8))
def test_every_cast_gets_all_tasks_if_it_is_to(tasks, number):
    assert dict(dealt(tasks, range(number), every=True)) == dict.fromkeys(range(number), tasks)
