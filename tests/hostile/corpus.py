"""What an enemy says to the API: broken bodies, names, paths, headers and queries, each with what must come of it."""

import gzip
import json

from jobd.web.routes import ROUTES
from schemas import api

NAMES = {
    "user": "alice", "job": "warm", "method": "echo", "view": "lines", "index": "0", "path": "frames.txt",
    "name": "f", "code": "shell", "agent": "aaaaaaaaaa", "cluster": "hpc", "token": "kaaaaaaaaa",
}  # fmt: skip

# A body that each of these takes, so that what is refused is refused for what is wrong with it.
GOOD = {
    api.RunRequest: {"code": "shell", "inputs": {"script.sh": {"text": "true"}}},
    api.CancelRequest: {},
    api.AnalysisRequest: {},
    api.ComputeRequest: {},
    api.SessionRequest: {},
    api.TokenRequest: {},
    api.OperatorTokenRequest: {},
    api.UserRequest: {"tier": "default"},
    api.ForgetRequest: {"reason": "x"},
}
TAKERS = [route for route in ROUTES if route.request in GOOD]

# Bodies that are no JSON of ours, whatever they are for.
TEXTS: dict[str, bytes] = {
    "garbage": bytes(range(256)),
    "zeros": bytes(1000),
    "half an object": b'{"code": "shell", "inp',
    "two objects": b"{}{}",
    "a list": b"[]",
    "a string": b'"x"',
    "a number": b"7",
    "null": b"null",
    "not UTF-8": b'{"reason": "\xff\xfe"}',
    "UTF-16": '{"reason": "x"}'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "a surrogate as bytes": b'{"reason": "\xed\xa0\x80"}',
    "a lone surrogate": b'{"reason": "\\ud800", "arguments": "\\udfff", "code": "\\ud83d", "tier": "\\udc00"}',
    "not a number": b'{"lifetime_s": NaN, "arguments": NaN, "serial": NaN, "reason": NaN, "code": NaN, "tier": NaN}',
    "infinite": b'{"lifetime_s": Infinity, "arguments": -Infinity, "serial": Infinity}',
    "very deep": b'{"arguments": ' + b"[" * 200_000,
    "deep and closed": b'{"x": ' + b'{"x": ' * 50_000 + b"1" + b"}" * 50_001,
    "10,000 digits": b'{"serial": ' + b"9" * 10_000 + b"}",
    "an unknown key": b'{"no such key": 1}',
    "a key that is a number": b'{"1": 1}',
    "an empty key": b'{"": 1}',
    "a key of another class": b'{"is": "RunRequest"}',
    "a key of Python's": b'{"__class__": "x", "__init__": 1}',
    "a long key": b'{"' + b"k" * 100_000 + b'": 1}',
    "form data": b"code=shell&force=1",
    "XML": b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY y SYSTEM "file:///etc/passwd">]><x>&y;</x>',
    "packed": gzip.compress(b"{}"),
}

# By class, bodies with one field that is wrong, and its name.
FIELDS: list[tuple[type, dict, str]] = [
    (api.RunRequest, {"code": None}, "code"),
    (api.RunRequest, {"code": "../shell"}, "code"),
    (api.RunRequest, {"code": "shell\x00"}, "code"),
    (api.RunRequest, {"mode": ["sequential"]}, "mode"),
    (api.RunRequest, {"mode": "Sequential"}, "mode"),
    (api.RunRequest, {"mode": {}}, "mode"),
    (api.RunRequest, {"inputs": {"../x": {"text": ""}}}, "inputs"),
    (api.RunRequest, {"inputs": {"/etc/passwd": {"text": ""}}}, "inputs"),
    (api.RunRequest, {"inputs": {"a\x00b": {"text": ""}}}, "inputs"),
    (api.RunRequest, {"inputs": {"": {"text": ""}}}, "inputs"),
    (api.RunRequest, {"inputs": {"script.sh": None}}, "inputs.script.sh"),
    (api.RunRequest, {"inputs": {"script.sh": {"text": 7}}}, "inputs.script.sh.text"),
    (api.RunRequest, {"inputs": {"script.sh": {"text": "", "mode": 0o755}}}, "inputs.script.sh.mode"),
    (api.RunRequest, {"inputs": {"script.sh": {"library": "../f"}}}, "inputs.script.sh.library"),
    (api.RunRequest, {"inputs": {"script.sh": {"library": "bobs"}}}, "inputs.script.sh.library"),
    (api.RunRequest, {"inputs": {"script.sh": {"library": "f", "text": ""}}}, "inputs.script.sh.text"),
    (api.RunRequest, {"resources": {"cores": -1}}, "resources.cores"),
    (api.RunRequest, {"resources": {"cores": 1 << 62}}, "resources.cores"),
    (api.RunRequest, {"resources": {"cores": 1 << 64}}, "resources.cores"),
    (api.RunRequest, {"resources": {"cores": 1.0}}, "resources.cores"),
    (api.RunRequest, {"resources": {"gpus": 1}}, "resources.gpus"),
    (api.RunRequest, {"resources": None}, "resources"),
    (api.RunRequest, {"limits": {"run_s": "forever"}}, "limits.run_s"),
    (api.RunRequest, {"limits": {"run_s": 1e308}}, "limits.run_s"),
    (api.RunRequest, {"limits": {"run_s": -0.0}}, "limits.run_s"),
    (api.RunRequest, {"force": None}, "force"),
    (api.RunRequest, {"supersede": 1}, "supersede"),
    (api.RunRequest, {"user": "bob"}, "user"),
    (api.CancelRequest, {"serial": 0}, "serial"),
    (api.CancelRequest, {"serial": -1}, "serial"),
    (api.CancelRequest, {"serial": "1"}, "serial"),
    (api.CancelRequest, {"serial": 1 << 54}, "serial"),
    (api.CancelRequest, {"serial": 1e300}, "serial"),
    (api.CancelRequest, {"reason": "x" * 501}, "reason"),
    (api.CancelRequest, {"reason": ["x"]}, "reason"),
    (api.AnalysisRequest, {"serial": True}, "serial"),
    (api.AnalysisRequest, {"arguments": json.loads("[" * 40 + "]" * 40)}, "arguments"),
    (api.AnalysisRequest, {"arguments": {"a": json.loads('{"b":' * 40 + "1" + "}" * 40)}}, "arguments"),
    (api.ComputeRequest, {"arguments": json.loads("[" * 40 + "]" * 40)}, "arguments"),
    (api.ComputeRequest, {"serial": 1}, "serial"),
    (api.SessionRequest, {"code": ""}, "code"),
    (api.SessionRequest, {"code": "x" * 129}, "code"),
    (api.TokenRequest, {"lifetime_s": 0}, "lifetime_s"),
    (api.TokenRequest, {"lifetime_s": -1e300}, "lifetime_s"),
    (api.TokenRequest, {"lifetime_s": 10**30}, "lifetime_s"),
    (api.TokenRequest, {"job": "*"}, "job"),
    (api.OperatorTokenRequest, {"job": "j"}, "job"),
    (api.OperatorTokenRequest, {"read_only": True}, "read_only"),
    (api.UserRequest, {"tier": "../../default"}, "tier"),
    (api.UserRequest, {"tier": "unlimited"}, "tier"),
    (api.ForgetRequest, {"reason": None}, "reason"),
]

# What stands in a path where a name belongs. None of it may be let through, decoded or not.
PARTS = [
    "..", ".", "...", "%2e%2e", "%2E%2E", "..%2f..%2fetc%2fpasswd", "..%5c..%5cx", "%2fetc%2fpasswd", "..;", ".git",
    "%252e%252e%252f", "%00", "a%00", "a%0a", "a%0d%0aset-cookie:%20x=y", "a%20b", "%20", "%ff%fe", "%ed%a0%80", "%zz",
    "%c0%ae%c0%ae", "%e2%80%ae", "%", "%u0041", "a%2", "-a", "_a", "~root", "$HOME", "`id`", "a;b", "a'b", 'a"b', "a|b",
    "a*", "{user}", "%7Buser%7D", "x" * 129, "x" * 2000, "%f0%9f%98%80", "a%3Fserial=1", "a%23b", "a,b", "a=b", "a@b",
    "a:b", "a+b",
]  # fmt: skip

PATHS = [
    "../frames.txt", "..%2fframes.txt", "../../../../jobd.sqlite", "%2e%2e/%2e%2e/service-token", "a/../frames.txt",
    "./frames.txt", "/etc/passwd", "//etc/passwd", "%2fetc%2fpasswd", "a//b", "frames.txt/", "frames.txt%00.png",
    "frames.txt%0a", "..\\..\\x", "%5c..%5cx", "/".join("x" * 17), "x" * 513, "%ff", "C:%5cx", "%c0%ae%c0%ae/x", ".",
    "..",
]  # fmt: skip

# Headers that ask for something odd, and the statuses that may come of it on a GET of what is there.
HEADERS: list[tuple[dict[str, str], set[int]]] = [
    ({"range": "bytes=0-0,2-3"}, {200}),
    ({"range": "bytes=" + ",".join(["0-"] * 1000)}, {200}),
    ({"range": "bytes=99999999999999999999-"}, {200, 416}),
    ({"range": "bytes=-99999999999999999999"}, {200}),
    ({"range": "bytes=5-1"}, {200, 422}),
    ({"range": "x" * 10_000}, {200}),
    ({"if-none-match": '"' * 10_000}, {200}),
    ({"if-none-match": ", ".join(['"1"'] * 2000)}, {200}),
    ({"if-none-match": '"999999999999999999999999"'}, {200}),
    ({"prefer": "wait=99999999999999999999"}, {200, 422}),
    ({"prefer": "wait=-1"}, {200, 422}),
    ({"prefer": "wait=1e3, wait=nan, respond-async"}, {200, 422}),
    ({"prefer": "wait=\u00b2"}, {200, 422}),
    ({"content-type": "text/html; charset=utf-7"}, {200}),
    ({"content-type": "multipart/form-data; boundary=" + "x" * 5000}, {200}),
    ({"accept": "text/html", "accept-encoding": "gzip, br, *;q=0", "accept-language": "x" * 5000}, {200}),
    ({"expect": "100-continue"}, {200, 417}),
    ({"x-http-method-override": "DELETE", "x-method-override": "DELETE", "x-http-method": "DELETE"}, {200}),
    ({"x-forwarded-for": "127.0.0.1", "x-forwarded-user": "operator", "x-forwarded-prefix": "/v1/admin"}, {200}),
    ({"x-original-url": "/v1/admin/tree", "x-rewrite-url": "/v1/admin/tree"}, {200}),
    ({"forwarded": "for=unix;proto=https", "x-remote-user": "root", "remote-user": "root"}, {200}),
    ({"upgrade": "h2c", "connection": "upgrade, http2-settings", "http2-settings": "AAMAAABkAAQAAP__"}, {200}),
    ({"upgrade": "websocket", "connection": "upgrade", "sec-websocket-key": "x", "sec-websocket-version": "13"}, {200}),
    ({"te": "trailers, chunked", "trailer": "authorization"}, {200}),
    ({"host": "evil.example"}, {200}),
    ({"host": "a" * 5000}, {200}),
    ({"origin": "null"}, {200}),
    ({"cookie": "; ".join(["a=b"] * 500)}, {200}),
    ({"last-event-id": "9" * 1000}, {200, 422}),
    ({f"x-{number}": "y" for number in range(90)}, {200, 431}),
]

QUERIES = [
    "serial=", "serial=0", "serial=-1", "serial=1.0", "serial=0x1", "serial=1_0", "serial=%201", "serial=1%00",
    "serial=+1", "serial=" + "9" * 5000, "serial=%d9%a1", "serial=1&serial=x", "serial=NaN", "serial[]=1x&serial=y",
]  # fmt: skip
ODD_QUERIES = [
    "&" * 1000, "a=b&" * 30, "%", "%zz=%zz", "=", "=&=", "%00=%00", "%ff=%ff", "%ed%a0%80=1", "x" * 8000, ";serial=x",
    "SERIAL=x", "a=" + "%41" * 2000,
]  # fmt: skip
