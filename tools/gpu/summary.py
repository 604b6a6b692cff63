"""A JUnit file as JSON, with what the tests recorded: python -m tools.gpu.summary JUNIT JSON STATUS."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

OUTCOMES = {"failure": "failed", "error": "failed", "skipped": "skipped"}


def summary(junit: Path) -> dict[str, Any]:
    """How many tests passed, failed and were skipped, and each one's outcome, reason, seconds and records."""
    tests = [test(case) for case in ElementTree.parse(junit).getroot().iter("testcase")]
    counts = {name: sum(one["outcome"] == name for one in tests) for name in ("passed", "failed", "skipped")}
    return counts | {"tests": tests}


def test(case: ElementTree.Element) -> dict[str, Any]:
    """One test."""
    told: dict[str, Any] = {"name": case.get("name"), "outcome": "passed", "seconds": float(case.get("time", 0))}
    for element in case:
        if element.tag in OUTCOMES:
            told["outcome"] = OUTCOMES[element.tag]
            told["reason"] = re.sub(r"\s+", " ", element.get("message") or "")[:500]
    records = {one.get("name"): one.get("value") for one in case.iter("property")}
    return told | ({"records": records} if records else {})


if __name__ == "__main__":
    complete = sys.argv[3] in ("0", "1")  # pytest's exit status: 1 is failed tests, all others an early end
    told = {"complete": complete} | summary(Path(sys.argv[1]))
    Path(sys.argv[2]).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(
        ", ".join(f"{told[name]} {name}" for name in ("passed", "failed", "skipped"))
        + ("" if complete else "; stopped before the end")
    )
    for one in told["tests"]:
        if one["outcome"] == "failed":
            print(f"FAILED {one['name']}: {one['reason'][:200]}")
    if not told["passed"]:
        reasons = sorted({one.get("reason", "") for one in told["tests"]})
        sys.exit(f"nothing passed: {reasons[0] if reasons else 'no tests were found'}")
