"""``blkxact prove``: every single fault tried on a backup tool."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import textwrap
import time
from collections import Counter
from contextlib import closing, nullcontext
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import NoReturn

from blkxact.prove.client import StartError
from blkxact.prove.faults import FaultError
from blkxact.prove.findings import Finding, findings_of
from blkxact.prove.report import as_json, as_junit
from blkxact.prove.results import Case, Result, Verdict
from blkxact.prove.scenario import Scenario, ScenarioError, load
from blkxact.prove.store import Store, StoreError
from blkxact.prove.sweep import BaselineError, Sweep
from blkxact.qmp.json_text import encode_text

from .errors import CliError

WIDTH = 96
"""Columns of the text of a finding."""
_UNITS = {"s": 1, "m": 60, "h": 3600}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``prove``."""
    parser.epilog = """\
A SCENARIO says how a backup tool is called (docs/prove.md). The tool is run once without faults,
then once for each fault that can happen anywhere in that run. What it claims to have backed up is
restored and compared with what the disks held.

verdicts: sound, honest (it failed and said so), LOSS (a claim does not restore), STUCK (no later
call succeeds), HANG, LITTER (it leaves things in the emulator), CRASH (a bug of blkxact)

exit status: 0, or 1 for LOSS, STUCK, HANG or CRASH
"""
    parser.add_argument("scenario", metavar="SCENARIO", type=Path)
    parser.add_argument(
        "--tool", metavar="FILE", type=Path, help="what {tool} stands for in the scenario"
    )
    parser.add_argument("--seed", metavar="N", type=int, default=1, help="of the guest's writes")
    parser.add_argument(
        "--workers",
        metavar="N",
        type=_count,
        default=len(os.sched_getaffinity(0)),
        help="processes; default: %(default)s",
    )
    parser.add_argument(
        "--dask", metavar="ADDRESS", help="run the cases on a cluster: tcp://HOST:PORT"
    )
    _add_limits_and_files(parser)


def _add_limits_and_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--budget", metavar="N", type=_count, help="try at most so many cases")
    parser.add_argument("--time", metavar="TIME", type=_seconds, help="stop after 90s, 10m, 2h")
    parser.add_argument(
        "--pairs",
        action="store_true",
        help="then try a second fault where a first has made the tool do something new",
    )
    parser.add_argument(
        "--replay", metavar="CASE", action="append", help="run this case only, and show its calls"
    )
    parser.add_argument("--list", action="store_true", help="show the cases, and run none")
    parser.add_argument(
        "--store", metavar="FILE", type=Path, help="keep verdicts there, and go on from them"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the findings there")
    parser.add_argument(
        "--html", metavar="DIR", type=Path, help="make a page for each finding or replayed case"
    )
    parser.add_argument("--junit", metavar="FILE", type=Path, help="the same for CI")


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number from 1 on")
    return int(text)


def _seconds(text: str) -> int:
    unit = text[-1:] if text[-1:] in _UNITS else ""
    try:
        return _count(text.removesuffix(unit)) * _UNITS.get(unit, 1)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a time such as 90s, 10m or 2h") from None


def run(args: argparse.Namespace) -> int:
    """Sweep; the exit status is 1 if the tool can be made to lose data, or to hang."""
    before = signal.signal(signal.SIGTERM, _end)
    problems = _problems(args)
    try:
        scenario = load(args.scenario, args.tool)
        if args.replay:
            return _replay(args, scenario, [Case.parse(text) for text in args.replay])
        return _sweep(args, scenario)
    except problems as error:
        raise CliError(str(error)) from error
    finally:
        signal.signal(signal.SIGTERM, before)


def _problems(args: argparse.Namespace) -> tuple[type[Exception], ...]:
    """Return what is reported in one line."""
    problems = (ScenarioError, FaultError, StartError, StoreError, BaselineError)
    if args.dask is None:
        return problems
    try:
        from blkxact.prove.cluster import ClusterError  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise CliError(f"--dask needs {error.name}: pip install 'blkxact[dask]'") from error
    return (*problems, ClusterError)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """Leave, and remove all processes and directories on the way."""
    del frame
    raise SystemExit(128 + number)


def _sweep(args: argparse.Namespace, scenario: Scenario) -> int:
    begin = time.monotonic()
    opened = nullcontext() if args.store is None else closing(Store(args.store, scenario))
    with (
        opened as store,
        Sweep(
            scenario,
            seed=args.seed,
            workers=args.workers,
            store=store,
            keep_records=args.pairs,
            cluster=args.dask,
        ) as sweep,
    ):
        baseline = sweep.baseline()
        cases = sweep.cases()
        if args.list:
            print(*cases, sep="\n")
            return 0
        print(
            f"{args.scenario}: {len(baseline.calls)} calls are sound without faults,"
            f" {len(baseline.passings)} points, {len(cases)} cases"
        )
        cases = cases[: args.budget]
        until = None if args.time is None else begin + args.time
        results = _followed(sweep, cases, until)
        if args.pairs:
            pairs = _pairs(sweep, results, args.budget)
            cases += pairs
            results += _followed(sweep, pairs, until)
        _summarize(results, len(cases), sweep.reused, time.monotonic() - begin)
        found = findings_of(results)
        for number, finding in enumerate(found, 1):
            _show(args, finding)
            if args.html is not None:
                _, page = sweep.page(finding.simplest.case)
                _keep_page(args.html, f"{number}-{finding.verdict}-{finding.cause.title}", page)
    _write(args, results, found)
    return int(any(result.verdict.fails for result in results))


def _pairs(sweep: Sweep, results: list[Result], budget: int | None) -> list[Case]:
    left = None if budget is None else budget - len(results)
    pairs = list(islice(sweep.pairs(results), left))
    print(f"{len(pairs)} cases of two faults")
    return pairs


def _followed(sweep: Sweep, cases: list[Case], until: float | None) -> list[Result]:
    """Run the cases and show how far they are, if a person looks on."""
    results: list[Result] = []
    begin = time.monotonic()
    shown = begin
    watched = sys.stderr.isatty()
    for result in sweep.run(cases, until=until):
        results.append(result)
        now = time.monotonic()
        if watched and now - shown > 0.2:
            shown = now
            _progress(results, len(cases), len(results) - sweep.reused, now - begin)
    if watched:
        print(end="\r\x1b[K", file=sys.stderr)
    return results


def _progress(results: list[Result], total: int, run: int, seconds: float) -> None:
    rate = run / seconds
    left = (total - len(results)) / rate if rate else 0
    bad = Counter(str(result.verdict) for result in results if result.verdict.fails)
    text = "".join(f"  {verdict} {count}" for verdict, count in sorted(bad.items()))
    minutes, rest = divmod(round(left), 60)
    line = f"{len(results)}/{total}  {rate:.1f}/s  {minutes}:{rest:02} left{text}"
    print(end=f"\r{line}\x1b[K", file=sys.stderr, flush=True)


def _summarize(results: list[Result], wanted: int, reused: int, seconds: float) -> None:
    verdicts = Counter(result.verdict for result in results)
    counts = ", ".join(f"{verdicts[each]} {each}" for each in Verdict if verdicts[each])
    run = len(results) - reused
    tool = sum(result.tool_seconds for result in results)
    spent = sum(result.seconds for result in results)
    print(
        f"{len(results)} cases in {seconds:.0f} s ({run / seconds:.1f} a second): {counts or '-'}"
    )
    if spent:
        own = (spent - tool) / len(results) * 1000
        print(f"{own:.0f} ms a case besides the tool; {tool / spent:.0%} of the time is the tool's")
    if reused:
        print(f"{reused} verdicts were known")
    if len(results) < wanted:
        print(f"the time is over; {wanted - len(results)} cases were not tried")


def _show(args: argparse.Namespace, finding: Finding) -> None:
    print(f"\n{finding.verdict}: {finding.cause.title} ({len(finding.results)} cases)")
    print(textwrap.indent(textwrap.fill(finding.paragraph(), WIDTH), "  "))
    tool = "" if args.tool is None else f" --tool {args.tool}"
    print(f"  again: blkxact prove {args.scenario}{tool} --replay '{finding.simplest.case}'")


def _write(args: argparse.Namespace, results: list[Result], found: list[Finding]) -> None:
    if args.json is not None:
        text = encode_text(as_json(str(args.scenario), results, found), indent=1)
        args.json.write_text(text + "\n")
    if args.junit is not None:
        args.junit.write_text(as_junit(str(args.scenario), results, found))


def _keep_page(directory: Path, name: str, page: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.html"
    path.write_text(page, encoding="utf-8", errors="replace")
    print(f"  {path}")


def _replay(args: argparse.Namespace, scenario: Scenario, cases: list[Case]) -> int:
    fails = False
    for seed in {case.seed: None for case in cases}:
        with Sweep(scenario, seed=seed) as sweep:
            sweep.baseline()
            for number, case in enumerate(cases, 1):
                if case.seed == seed:
                    fails |= _replay_one(args, sweep, case, number)
    return int(fails)


def _replay_one(args: argparse.Namespace, sweep: Sweep, case: Case, number: int) -> bool:
    """Show a case; return whether it fails."""
    page = None
    if args.html is None:
        [result] = sweep.run([case])
    else:
        result, page = sweep.page(case)
    _report(result)
    if page is not None:
        _keep_page(args.html, f"{number}-{result.verdict}", page)
    return result.verdict.fails


def _report(result: Result) -> None:
    print(f"{result.case}: {result.verdict}")
    for call in result.calls:
        print(f"  call {call.number}, {call.verb}: {call.ended}, exit status {call.status}")
        for fault in call.struck:
            print(f"    fault:  {fault}")
        for line in call.printed.splitlines():
            print(f"    tool:   {line}")
        for work in call.bitmaps:
            print(f"    bitmap: {work}")
        for text in call.wrong:
            print(f"    wrong:  {text}")
    for finding in findings_of([result]):
        print(textwrap.fill(finding.paragraph(), WIDTH))
