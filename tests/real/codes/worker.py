"""The analysis worker of the code "shell": a frame is a whole line of frames.txt, the metrics are metrics.json;
the other methods are for tests, and need no run."""

import json
import os
import pathlib
import sys
import time


def answer(question):
    """The header of the answer, and the bytes that follow it."""
    method, args = question["method"], question["args"]
    if method in ("progress", "frame"):
        path = os.path.join(question["run"], "frames.txt")
        lines = pathlib.Path(path).read_text().splitlines(keepends=True) if os.path.exists(path) else []
        whole = [line for line in lines if line.endswith("\n")]
        if method == "progress":
            said = os.path.join(question["run"], "metrics.json")  # a run that has metrics moves it into place
            metrics = json.loads(pathlib.Path(said).read_text()) if os.path.exists(said) else {}
            result = {"text": f"{len(whole)} lines", "frames": {"lines": len(whole)}, "metrics": metrics}
            return {"result": result}, b""
        index = len(whole) - 1 if args["index"] == "latest" else args["index"]
        if not 0 <= index < len(whole):
            return {"error": {"code": "no_frame", "text": f"there are {len(whole)} frames"}}, b""
        return {"result": {"index": index, "line": whole[index].strip()}}, b""
    if method == "sleep":
        time.sleep(args["s"])
    if method == "hang":
        time.sleep(3600)
    if method == "crash":
        sys.exit("the worker has crashed, as it was asked to")
    if method == "garbage":
        return None, b"this is no answer\n"
    if method == "blob":
        body = bytes(range(256)) * (args["bytes"] // 256)
        return {"type": "application/x-blob", "bytes": len(body), "result": {"of": "worker"}}, body
    if method == "meta":
        return {"type": "application/x-blob", "bytes": 3, "result": {"words": args["words"]}}, b"abc"
    if method == "type":
        return {"type": args["type"], "bytes": 3}, b"abc"
    chars = args.get("chars", 0) if isinstance(args, dict) else 0
    return {"result": {"json": "x" * chars, "pid": os.getpid(), "echo": args}}, b""


for line in sys.stdin:
    asked = json.loads(line)
    header, body = answer(asked)
    if header is not None:
        sys.stdout.buffer.write(json.dumps({"id": asked["id"], **header}).encode() + b"\n")
    sys.stdout.buffer.write(body)
    sys.stdout.buffer.flush()
