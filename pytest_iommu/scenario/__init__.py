# SPDX-License-Identifier: GPL-2.0-only
"""Scenarios: YAML files -> suites of instances -> plans of commands and checks."""

from __future__ import annotations

from pytest_iommu.core.yaml_reader import ScenarioError
from pytest_iommu.scenario.loader import load
from pytest_iommu.scenario.phases import (
    Access,
    Check,
    Dma,
    Expectation,
    Lost,
    Phase,
    Place,
    Plan,
    Plug,
    RacePlan,
    RaceStep,
    ReadCheck,
    Sample,
    StormPlan,
    StreamCheck,
    broken_rule,
    command_failure,
)
from pytest_iommu.scenario.plan import compile_plan, contradictions
from pytest_iommu.scenario.schema import Case, DomainSpec, HandLine, Instance, Needs, ReadHow, Suite

__all__ = [
    "Access",
    "Case",
    "Check",
    "Dma",
    "DomainSpec",
    "Expectation",
    "HandLine",
    "Instance",
    "Lost",
    "Needs",
    "Phase",
    "Place",
    "Plan",
    "Plug",
    "RacePlan",
    "RaceStep",
    "ReadCheck",
    "ReadHow",
    "Sample",
    "ScenarioError",
    "StormPlan",
    "StreamCheck",
    "Suite",
    "broken_rule",
    "command_failure",
    "compile_plan",
    "contradictions",
    "load",
]
