"""Text that is not ASCII breaks programs that believe the locale.

Symptom: UnicodeDecodeError on reading a data set, question marks in logs.
Cause: containers and batch jobs start without LANG, which means the C locale and ASCII.
Remove when: no program of a stack asks the locale for an encoding.
"""

from runner.facts import Facts
from runner.fixing import Example, facts_like, launch_like
from runner.launch import Launch, said, with_env

DECIDING = ("LC_ALL", "LC_CTYPE", "LANG")


def applies(facts: Facts, launch: Launch) -> str | None:
    if any(said(name, facts, launch) for name in DECIDING):
        return None
    return "LANG is C.UTF-8: no locale was set"


def apply(facts: Facts, launch: Launch) -> Launch:
    return with_env(facts, launch, {"LANG": "C.UTF-8"})


EXAMPLE = Example(facts_like(env={}), launch_like(), launch_like(env={"LANG": "C.UTF-8"}))
