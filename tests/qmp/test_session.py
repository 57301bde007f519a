"""One conversation: negotiation, order, out-of-band requests, and what is held back."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from blkxact.errors import ErrorClass, QmpError
from blkxact.qmp.json_text import encode, encode_pretty
from blkxact.qmp.request import (
    LARGE,
    MAX_ARGUMENT_VALUES,
    MAX_ID_TEXT,
    MAX_ID_VALUES,
    MAX_MEMBERS,
)
from blkxact.qmp.session import MAX_QUEUE, RULES, Mode, Session

from .inputs import AFTER, ALL, lines, outcome, until_after
from .talk import CAPABILITIES, CAPABILITIES_OOB, Talk, ToyDispatcher


def in_band(id_: Any, name: str = "query-name") -> bytes:
    return json.dumps({"execute": name, "id": id_}).encode()


def out_of_band(id_: Any) -> bytes:
    return json.dumps({"exec-oob": "query-yank", "id": id_}).encode()


def ids(replies: list[dict[str, Any]]) -> list[Any]:
    return [reply["id"] for reply in replies]


def test_greeting_comes_first_and_tells_version_and_capabilities() -> None:
    assert Talk(negotiate=None).greeting == [
        {
            "QMP": {
                "version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "toy"},
                "capabilities": ["oob"],
            }
        }
    ]


def test_modes_each_have_rules() -> None:
    assert set(RULES) == set(Mode)


@pytest.mark.parametrize(
    ("negotiate", "mode"), [(CAPABILITIES, Mode.COMMAND), (CAPABILITIES_OOB, Mode.COMMAND_OOB)]
)
def test_negotiation_leads_to_the_mode_asked_for(negotiate: bytes, mode: Mode) -> None:
    talk = Talk(negotiate=None)
    assert talk.session.mode is Mode.NEGOTIATION
    assert not talk.session.wants_events
    talk.say(negotiate)
    assert talk.session.mode is mode
    assert talk.session.wants_events


def test_negotiation_refused_changes_nothing() -> None:
    talk = Talk(negotiate=None)
    talk.say(b'{"execute": "qmp_capabilities", "arguments": {"enable": ["oob", "x"]}}')
    assert talk.session.mode is Mode.NEGOTIATION


@pytest.mark.parametrize("data", ALL, ids=lambda data: repr(data[:40]))
def test_input_of_the_table_has_its_answers(data: bytes) -> None:
    replies = until_after(Talk().say(data + AFTER))
    assert [outcome(reply) for reply in replies] == ALL[data]


@pytest.mark.parametrize("data", ALL, ids=lambda data: repr(data[:40]))
def test_input_of_the_table_cut_anywhere_has_the_same_answers(data: bytes) -> None:
    whole = Talk().say(data + AFTER)
    for cut in range(1, len(data + AFTER), 1 if len(data) < 200 else 50):
        talk = Talk()
        talk.feed((data + AFTER)[:cut])
        talk.feed((data + AFTER)[cut:])
        assert talk.read() == whole


def test_transcript_cut_anywhere_has_the_same_answers() -> None:
    transcript = (
        b'{"execute": "query-name", "id": 0}\n'
        + CAPABILITIES_OOB
        + b"{'execute': 'query-name', 'id': 'it\\'s'}{\"exec-oob\": \"query-yank\", \"id\": 2}\r\n"
        + b'[1, @] {"execute": "nope", "id": {"a": ["\\u00e9"]}}\xff\n'
        + in_band(4)
    )
    whole = Talk(negotiate=None).say(transcript)
    assert len(whole) == 9
    for cut in range(1, len(transcript)):
        talk = Talk(negotiate=None)
        assert talk.say(transcript[:cut]) + talk.say(transcript[cut:]) == whole
    for step in (1, 2, 3, 10):
        assert Talk(negotiate=None).say(transcript, step) == whole


def test_error_classes_are_qemus() -> None:
    def class_of(talk: Talk, data: bytes) -> str:
        return str(talk.say(data)[0]["error"]["class"])

    assert class_of(Talk(negotiate=None), b'{"execute": "nope"}') == "CommandNotFound"
    assert class_of(Talk(), b'{"execute": "nope"}') == "CommandNotFound"
    assert class_of(Talk(), CAPABILITIES) == "CommandNotFound"
    assert class_of(Talk(), b"@") == "GenericError"
    assert class_of(Talk(), b"{}") == "GenericError"


def test_results_and_refusals_are_sent_with_their_id() -> None:
    talk = Talk()
    talk.feed(in_band("a", "wait"))
    assert talk.finish([]) == [{"return": [], "id": "a"}]
    talk.feed(in_band(None, "wait"))
    assert talk.finish({"x": 1}) == [{"return": {"x": 1}, "id": None}]
    talk.feed(b'{"execute": "wait"}')
    assert talk.finish("") == [{"return": ""}]
    talk.feed(in_band(3, "wait"))
    talk.session.fail(talk.running.pop(), QmpError("no", ErrorClass.DEVICE_NOT_FOUND))
    assert talk.read() == [{"id": 3, "error": {"class": "DeviceNotFound", "desc": "no"}}]


# Order


@pytest.mark.parametrize("negotiate", [CAPABILITIES, CAPABILITIES_OOB], ids=["in", "oob"])
def test_requests_behind_one_that_waits_keep_their_order(negotiate: bytes) -> None:
    talk = Talk(negotiate=negotiate)
    talk.feed(in_band(0, "wait") + in_band(1) + b"@\n" + in_band(2, "wait") + in_band(3))
    assert talk.read() == []
    replies = talk.finish()
    assert ids(replies[:2]) == [0, 1]
    assert outcome(replies[2]) == "JSON parse error, stray '@'"
    assert len(replies) == 3
    assert ids(talk.finish()) == [2, 3]


def test_event_goes_out_between_what_was_sent_before_and_after() -> None:
    talk = Talk()
    talk.feed(in_band(0) + in_band(1, "wait"))
    talk.session.emit(encode({"event": "X"}))
    talk.session.complete(talk.running.pop(), None)
    assert [reply.get("id", "event") for reply in talk.read()] == [0, "event", 1]


def test_out_of_band_requests_overtake() -> None:
    talk = Talk(negotiate=CAPABILITIES_OOB)
    talk.feed(in_band(0, "wait") + in_band(1) + out_of_band(2) + in_band(3) + out_of_band(4))
    assert ids(talk.read()) == [2, 4]
    assert ids(talk.finish()) == [0, 1, 3]


def test_out_of_band_refusals_overtake() -> None:
    talk = Talk(negotiate=CAPABILITIES_OOB)
    talk.feed(in_band(0, "wait") + b'{"exec-oob": "nope", "id": 1}{"exec-oob": 5, "id": 2}')
    assert ids(talk.read()) == [1, 2]


def test_out_of_band_request_may_wait_while_in_band_ones_go_on() -> None:
    session = Session({"slow": _AllowOob()}.get, "toy")
    session.receive(CAPABILITIES_OOB + b'{"exec-oob": "slow", "id": 1}{"execute": "slow", "id": 2}')
    requests = []
    while session.has_work:
        if request := session.next_request():
            requests.append(request)
    session.complete(requests[1], None)
    session.complete(requests[0], None)
    assert ids(lines(session.take_output())[2:]) == [2, 1]


class _AllowOob:
    allow_oob = True


# What is held back


def test_without_oob_nothing_is_looked_at_behind_a_request_that_waits() -> None:
    talk = Talk()
    talk.feed(in_band(0, "wait") + b'@\n{"exec-oob": "query-yank"}')
    assert not talk.session.has_work
    assert not talk.session.wants_input
    assert talk.read() == []
    assert len(talk.finish()) == 3
    assert talk.session.wants_input


def test_with_oob_reading_goes_on_until_the_queue_is_full() -> None:
    talk = Talk(negotiate=CAPABILITIES_OOB)
    talk.feed(in_band("first", "wait"))
    for number in range(MAX_QUEUE):
        assert talk.session.wants_input
        talk.feed(in_band(number, "wait" if number == 0 else "query-name"))
    assert not talk.session.wants_input
    talk.feed(out_of_band("held back"))
    assert talk.read() == []
    # One request begins, so one may be read again.
    assert ids(talk.finish()) == ["first", "held back"]
    assert talk.session.wants_input
    assert ids(talk.finish()) == [*range(MAX_QUEUE)]
    assert talk.session.idle


def test_session_is_idle_when_all_is_answered() -> None:
    talk = Talk()
    assert talk.session.idle
    talk.feed(in_band(0, "wait"))
    assert not talk.session.idle
    talk.finish()
    assert talk.session.idle


def test_session_is_not_idle_while_a_message_is_unread() -> None:
    session = Session(ToyDispatcher().lookup, "toy")
    session.receive(CAPABILITIES)
    assert not session.idle
    assert session.has_work


# The text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"return": {}}, '{"return": {}}'),
        ({"a": [1, 2.5, True, None, "\u00e9\U0001f600\n"]}, None),
        ((1, 2), "[1, 2]"),
        ({"a": "\udc80x\udc80", "b": [{}, []]}, '{"a": "\\ufffdx\\ufffd", "b": [{}, []]}'),
        ({"a": "\\ud800 is text"}, '{"a": "\\\\ud800 is text"}'),
        ({"a": [math.inf, -math.inf, 0.1]}, '{"a": [1e999, -1e999, 0.1]}'),
        ({"\udc80": {"a": 1, "b": "\u00e9"}}, '{"\\ufffd": {"a": 1, "b": "\\u00e9"}}'),
    ],
)
def test_value_is_written_as_qemu_spaces_it(value: Any, text: str | None) -> None:
    assert encode(value) == (text or json.dumps(value)).encode() + b"\r\n"


def test_value_nested_beyond_pythons_limit_is_written() -> None:
    talk = Talk()
    deep = b"[" * 1020 + b'{"a": [0, "x"], "b": {}}' + b"]" * 1020
    talk.feed(b'{"execute": "query-name", "id": ' + deep + b"}")
    assert talk.session.take_output() == b'{"return": {}, "id": ' + deep + b"}\r\n"


def test_pretty_value_is_spread_over_lines() -> None:
    assert encode_pretty({"a": [1]}) == b'{\r\n    "a": [\r\n        1\r\n    ]\r\n}\r\n'


# What a client may make the server hold


def say_long(session: Session, data: bytes) -> tuple[list[Any], int]:
    """Return the replies to a message, and in how many turns it was read."""
    session.receive(data)
    turns = 0
    while session.has_work:
        request = session.next_request()
        turns += session.midway
        if request is not None:
            session.complete(request, None)
    return lines(session.take_output()), turns


def test_long_message_is_read_in_turns() -> None:
    talk = Talk()
    numbers = b",".join([b"1"] * 20_000)
    message = b'{"execute": "echo", "arguments": {"a": [%s, "\\u0041"]}}' % numbers
    replies, turns = say_long(talk.session, message)
    assert replies == [{"return": {}}]
    assert turns > 20


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("id", [1] * (2 * MAX_ID_VALUES)),
        ("id", {"a": ["x" * MAX_ID_TEXT] * 30}),
        ("id", "x" * (LARGE + 1)),
        ("arguments", {"a": [[]] * (MAX_ARGUMENT_VALUES + 1)}),
        ("arguments", {"a": dict.fromkeys(map(str, range(MAX_MEMBERS + 1)), "x" * 100)}),
    ],
)
def test_member_that_is_too_large_is_refused(member: str, value: Any) -> None:
    talk = Talk()
    message = json.dumps({"execute": "echo", "id": 1, member: value}).encode()
    (reply,), _ = say_long(talk.session, message)
    assert reply["error"]["desc"] == f"QMP input member '{member}' is too large"
    assert reply.get("id") == (None if member == "id" else 1)
    assert talk.session.held == 0


def test_what_is_held_is_counted_until_it_is_answered() -> None:
    talk = Talk(negotiate=CAPABILITIES_OOB)
    assert talk.session.held == 0
    text = b"x" * 100_000
    talk.feed(b'{"execute": "wait", "arguments": {"a": "%s"}}' % text)
    one = talk.session.held
    assert one >= len(text)
    talk.feed(b'{"execute": "wait", "arguments": {"a": "%s"}}' % text)
    assert talk.session.held == 2 * one
    talk.feed(b'{"execute": "echo", "arguments": {"a": "%s' % text)
    assert talk.session.held >= 2 * one + len(text)
    talk.feed(b'"}}')
    talk.finish()
    talk.finish()
    assert talk.session.held == 0


def test_error_that_waits_keeps_no_memory() -> None:
    talk = Talk(negotiate=CAPABILITIES_OOB)
    talk.feed(in_band(0, "wait"))
    talk.feed(b"{'a': [%s" % (b"1," * 50_000))
    talk.feed(b"]}")
    assert talk.session.held < 1000
    assert "expecting value" in outcome(talk.finish()[1])
