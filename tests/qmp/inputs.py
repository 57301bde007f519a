"""Bad and odd input, and what is answered to it: the same table for blkxact and for QEMU.

Each input is sent to a session in command mode whose one command is ``query-name`` (QEMU has it
too), and is followed by ``AFTER``, which ends whatever the input left open.
"""

from __future__ import annotations

import json
import re
from typing import Any

AFTER = b'\n\xff\n{"execute":"query-name","id":"after"}'
"""A line break ends numbers, words and strings; 0xFF ends the rest; then there is one good one."""


def parse(text: str) -> str:
    return f"JSON parse error, {text}"


VALUE = parse("expecting value")
OBJECT = "QMP input must be a JSON object"
NO_EXECUTE = "QMP input lacks member 'execute'"
STRAY_FF = parse("stray '\ufffd'")
MEMBER = "QMP input member '{}' "

# What is wrong: no token.
STRAY: dict[bytes, list[str]] = {
    b"@": [parse("stray '@'")],
    b"%d": [parse("stray '%'")],
    b"A": [parse("stray 'A'")],
    b"-x": [parse("stray '-x'")],
    b"+1": [parse("stray '+'")],
    b"01": [parse("stray '01'")],
    b"-01": [parse("stray '-01'")],
    b"1.": [parse("stray '1.\n'")],
    b"1.x": [parse("stray '1.x'")],
    b"1e": [parse("stray '1e\n'")],
    b"1e+-": [parse("stray '1e+-'")],
    b"1.5E+ ": [parse("stray '1.5E+ '")],
    b"-": [parse("stray '-\n'")],
    b"-}": [parse("stray '-}'")],
    b"\x00": [parse("stray ''")],
    b"\x01": [parse("stray '\x01'")],
    b"\x7f": [parse("stray '\x7f'")],
    b'"abc': [parse("stray '\"abc\n'")],
    b"'it": [parse("stray ''it\n'")],
    b'"a\tb"': [parse("stray '\"a\t'")],
    b'"a\\\n"': [parse("stray '\"a\\\n'")],
    b'"a\x00b"': [parse("stray '\"a'")],
    b'"\xff"': [parse("stray '\"\ufffd'")],
    b'"\xc3\xff"': [parse("stray '\"\ufffd\ufffd'")],
    b'"\xc3\xa9\xe2\x82\xfe"': [parse("stray '\"\u00e9\ufffd\ufffd'")],
    b"\xff\xff": [STRAY_FF, STRAY_FF],
    b"\xc3\xa9": [parse("stray '\ufffd'")],
    b"@ skipped 'all' \t this [": [parse("stray '@'")],
    b"@,": [parse("stray '@'"), VALUE],
    b"@:@{@": [parse("stray '@'"), VALUE, parse("stray '@'"), parse("stray '@'")],
    b'{"execute": @"query-name"}': [parse("stray '@'"), VALUE],
    b'{"execute": "query-name", "id": @}{"execute": "query-name"}': [parse("stray '@'"), VALUE, ""],
    b"[[[@]]": [parse("stray '@'"), VALUE, VALUE],
}

# What is wrong: tokens in a wrong order.
GRAMMAR: dict[bytes, list[str]] = {
    b"}": [VALUE],
    b"]": [VALUE],
    b":": [VALUE],
    b",": [VALUE],
    b"}}": [VALUE, VALUE],
    b"{]": [VALUE],
    b"[}": [VALUE],
    b"{[}]": [VALUE],
    b"[{]}": [VALUE],
    b"[1}": [parse("expected separator in list")],
    b'{"a": 1]': [parse("expected separator in dict")],
    b"[,]": [VALUE],
    b"[1,]": [VALUE],
    b"[1 2]": [parse("expected separator in list")],
    b"[1:2]": [parse("expected separator in list")],
    b'{"a"}': [parse("missing : in object pair")],
    b'{"a" 1}': [parse("missing : in object pair")],
    b'{"a",}': [parse("missing : in object pair")],
    b'{"a":}': [VALUE],
    b'{"a"::1}': [VALUE],
    b'{"a": 1 "b": 2}': [parse("expected separator in dict")],
    b'{"a": 1,}': [VALUE],
    b"{,}": [VALUE],
    b"{1: 2}": [parse("key is not a string in object")],
    b"{null: 2}": [parse("key is not a string in object")],
    b"{[1]: 2}": [parse("key is not a string in object")],
    b'{{"a": 1}: 2}': [parse("key is not a string in object")],
    b"{[1 2]: 2}": [parse("expected separator in list")],
    b"{a: 2}": [parse("invalid keyword 'a'")],
    b'{"a": 1, "a": 2}': [parse("duplicate key")],
    b'{"execute": "query-name", "execute": "query-name"}': [parse("duplicate key")],
    b'{"execute": "query-name", "id": [{"a": {"b": 1, "b": 1}}]}': [parse("duplicate key")],
    b'{"a": 1, "\\u0061": 2}': [parse("duplicate key")],
    b'{"a": 1, "a": nope}': [parse("invalid keyword 'nope'")],
    b"nope": [parse("invalid keyword 'nope'")],
    b"True": [parse("stray 'T'")],
    b"nulL": [parse("invalid keyword 'nul'"), parse("stray 'L'")],
    b"true1": [OBJECT, OBJECT],
    b"NaN": [parse("stray 'N'")],
    b'{"id": NaN}': [parse("stray 'N'"), VALUE],
    b'{"id": Infinity}': [parse("stray 'I'"), VALUE],
    b'{"id": -Infinity}': [parse("stray '-I'"), VALUE],
    b'{"id": 0e1}': [parse("expected separator in dict")],
    b'{"id": -0E1}': [parse("stray 'E'"), VALUE],
    b'{"id": 1-2}': [parse("expected separator in dict")],
    b'["a" "b"]': [parse("expected separator in list")],
    b"x" * 2000: [parse("invalid keyword '" + "x" * 1006)],
}

# What is wrong: inside a string.
STRINGS: dict[bytes, list[str]] = {
    rb'"\q"': [parse("invalid escape sequence in string")],
    rb'"\U0041"': [parse("invalid escape sequence in string")],
    rb'"\ud800"': [parse(r"\ud800 is not a valid Unicode character")],
    rb'"\ud800x\udc00"': [parse(r"\ud800 is not a valid Unicode character")],
    rb'"\ud800\u0041"': [parse(r"\ud800 is not a valid Unicode character")],
    rb'"\ud800\u12"': [parse(r"\ud800 is not a valid Unicode character")],
    rb'"\udc00"': [parse(r"\udc00 is not a valid Unicode character")],
    rb'"\uFFFE"': [parse(r"\uFFFE is not a valid Unicode character")],
    rb'"\ufdd0"': [parse(r"\ufdd0 is not a valid Unicode character")],
    rb'"\ud83f\udfff"': [parse(r"\ud83f\udfff is not a valid Unicode character")],
    rb'"\u12"': [parse('\\u12" is not a valid Unicode character')],
    rb'"\u"': [parse('\\u" is not a valid Unicode character')],
    rb'"\u00g0"': [parse(r"\u00g0 is not a valid Unicode character")],
    b'"\\u1\xc3\xa9\xc3\xa9"': [parse("\\u1\u00e9\ufffd is not a valid Unicode character")],
    b'"\xc3"': [parse("invalid UTF-8 sequence in string")],
    b'"\xa9"': [parse("invalid UTF-8 sequence in string")],
    b'"\xc0\xaf"': [parse("invalid UTF-8 sequence in string")],
    b'"\xed\xa0\x80"': [parse("invalid UTF-8 sequence in string")],
    b'"\xef\xbf\xbf"': [parse("invalid UTF-8 sequence in string")],
    b'"\xef\xb7\x90"': [parse("invalid UTF-8 sequence in string")],
    b'"\xf4\x90\x80\x80"': [parse("invalid UTF-8 sequence in string")],
    b'"\xf8\x88\x80\x80\x80"': [parse("invalid UTF-8 sequence in string")],
    b'"\xfc\x84\x80\x80\x80\x80"': [parse("invalid UTF-8 sequence in string")],
    b'"\xc3 \\q"': [parse("invalid UTF-8 sequence in string")],
    b'"\\q \xc3"': [parse("invalid escape sequence in string")],
    rb'{"\q": nope}': [parse("invalid escape sequence in string")],
}

# What is wrong: not JSON, but the request. An empty text stands for success.
REQUESTS: dict[bytes, list[str]] = {
    b"5 ": [OBJECT],
    b"-1.5e-3,": [OBJECT, VALUE],
    b"null": [OBJECT],
    b'"x"': [OBJECT],
    b"''": [OBJECT],
    b"[]": [OBJECT],
    b'[{"execute": "query-name"}]': [OBJECT],
    b"{}": [NO_EXECUTE],
    b'{"id": 1}': [NO_EXECUTE],
    b'{"arguments": {}}': [NO_EXECUTE],
    b'{"execute": 1}': [MEMBER.format("execute") + "must be a string"],
    b'{"execute": null}': [MEMBER.format("execute") + "must be a string"],
    b'{"execute": "query-name", "arguments": []}': [
        MEMBER.format("arguments") + "must be an object"
    ],
    b'{"execute": "query-name", "arguments": null}': [
        MEMBER.format("arguments") + "must be an object"
    ],
    b'{"execute": "query-name", "args": {}}': [MEMBER.format("args") + "is unexpected"],
    b'{"execute": "query-name", "": 1}': [MEMBER.format("") + "is unexpected"],
    b'{"execute": "query-name", "a\\u0000b\\"": 1}': [MEMBER.format('a\0b"') + "is unexpected"],
    b'{"exec-oob": "query-name"}': [MEMBER.format("exec-oob") + "is unexpected"],
    b'{"execute": "nope"}': ["The command nope has not been found"],
    b'{"execute": ""}': ["The command  has not been found"],
    b'{"execute": "Query-Name"}': ["The command Query-Name has not been found"],
    b'{"execute": "caf\xc3\xa9"}': ["The command caf\u00e9 has not been found"],
    b'{"execute": "query-name"} {"execute": "query-name"}\r\n\t': ["", ""],
    b"{'execute': 'query-name', 'arguments': {}}": [""],
    b'{"execute":"qmp_capabilities"}': [
        "Capabilities negotiation is already complete, command ignored"
    ],
    b'{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}': [
        "Capabilities negotiation is already complete, command ignored"
    ],
    b'{"execute":"qmp_capabilities","arguments":{"enable":["x"]}}': [
        "Parameter 'null' does not accept value 'x'"
    ],
    b"": [],
    b" \t\r\n": [],
}

NESTED: dict[bytes, list[str]] = {
    b"[" * 1024 + b"]" * 1024: [OBJECT],
    b"[" * 1025 + b"]" * 1025: ["JSON nesting depth limit exceeded", *[VALUE] * 1025],
    b'{"a":' * 1024 + b"1" + b"}" * 1024: [MEMBER.format("a") + "is unexpected"],
    b'{"a":[' * 513 + b"]}" * 513: [
        "JSON nesting depth limit exceeded",
        *(OBJECT, VALUE, OBJECT),
        *[VALUE] * 1025,
    ],
}

ALL = {**STRAY, **GRAMMAR, **STRINGS, **REQUESTS}


def outcome(reply: dict[str, Any]) -> str:
    """Return the text of a refusal, or an empty one."""
    return str(reply["error"]["desc"]) if "error" in reply else ""


def until_after(replies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the replies to the input, without those to ``AFTER``."""
    assert replies[-1].get("id") == "after", replies
    assert outcome(replies[-1]) == ""
    assert outcome(replies[-2]) == STRAY_FF
    return replies[:-2]


def lines(data: bytes) -> list[dict[str, Any]]:
    """Return the replies in what a server sent."""
    assert not data or data.endswith(b"\r\n")
    # QEMU writes a number that is too large as ``inf``, which is not JSON.
    return [json.loads(re.sub(rb"([ -])inf\b", rb"\g<1>1e999", line)) for line in data.splitlines()]
