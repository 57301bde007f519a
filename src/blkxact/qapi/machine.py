"""Commands on the machine that take arguments.

QEMU's counterpart: ``qapi/machine.json``, ``qapi/stats.json``, ``qapi/ui.json``.
"""

from __future__ import annotations

from typing import Any, Literal

from .common import Array, Int, Opt, QapiModel


class Balloon(QapiModel):
    """balloon."""

    value: Int
    """Bytes."""


class Screendump(QapiModel):
    """screendump."""

    filename: str
    device: Opt[str] = None
    head: Opt[Int] = None
    format: Opt[Literal["png", "ppm"]] = None


class SendKey(QapiModel):
    """send-key; the keys are not looked at."""

    keys: Array[Any]
    hold_time: Opt[Int] = None


class InputSendEvent(QapiModel):
    """input-send-event; the events are not looked at."""

    device: Opt[str] = None
    head: Opt[Int] = None
    events: Array[Any]


class CpuModelInfo(QapiModel):
    """A CPU model and its properties."""

    name: str
    props: Opt[Any] = None


class QueryCpuModelExpansion(QapiModel):
    """query-cpu-model-expansion."""

    type: Literal["static", "full"]
    model: CpuModelInfo


class QueryStats(QapiModel):
    """query-stats; which values are wanted does not matter, as there are none."""

    is_open = True

    target: Literal["vm", "vcpu"]


class QueryStatsSchemas(QapiModel):
    """query-stats-schemas."""

    provider: Opt[Literal["kvm"]] = None


class QueryRxFilter(QapiModel):
    """query-rx-filter."""

    name: Opt[str] = None


class QueryMachines(QapiModel):
    """query-machines; no machine here has compatibility properties."""

    compat_props: Opt[bool] = None
