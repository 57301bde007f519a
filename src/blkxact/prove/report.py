"""The findings of a sweep for programs: JSON, and JUnit's XML for CI."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree as ET

from .findings import Finding
from .results import Result


def as_json(scenario: str, results: Sequence[Result], findings: Sequence[Finding]) -> Any:
    """Return what ``--json`` writes."""
    verdicts = Counter(str(result.verdict) for result in results)
    return {
        "scenario": scenario,
        "cases": len(results),
        "verdicts": dict(sorted(verdicts.items())),
        "findings": [
            {
                "verdict": str(finding.verdict),
                "cause": finding.cause.title,
                "text": finding.paragraph(),
                "case": str(finding.simplest.case),
                "cases": [str(result.case) for result in finding.results],
            }
            for finding in findings
        ],
    }


def as_junit(scenario: str, results: Sequence[Result], findings: Sequence[Finding]) -> str:
    """Return what ``--junit`` writes: a test for each case."""
    texts = {
        str(result.case): (finding.cause.title, finding.paragraph())
        for finding in findings
        for result in finding.results
    }
    failures = sum(result.verdict.fails for result in results)
    suite = ET.Element(
        "testsuite", name=scenario, tests=str(len(results)), failures=str(failures), errors="0"
    )
    for result in results:
        case = ET.SubElement(
            suite,
            "testcase",
            classname=scenario,
            name=str(result.case),
            time=f"{result.seconds:.3f}",
        )
        if result.verdict.fails:
            cause, text = texts[str(result.case)]
            ET.SubElement(case, "failure", type=cause, message=str(result.verdict)).text = text
    return ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"
