"""Runs a jupyterhub_config.py as traitlets does and tells the hub what came out.

The answer goes as one frame (length, then JSON) through the pipe that was standard output; whatever
the configuration prints goes to standard error.
"""

import datetime
import json
import linecache
import math
import os
import struct
import sys
import sysconfig

DEEPEST = 64
LONGEST_MESSAGE = 2000


class Refused(Exception):
    """A value cannot be told to the hub; the text says why."""


def main(request):
    channel = os.dup(1)
    os.dup2(2, 1)
    quiet = os.open(os.devnull, os.O_RDONLY)
    os.dup2(quiet, 0)
    os.close(quiet)
    sys.stdout = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    answer = run(request)
    frame = json.dumps(answer, allow_nan=False).encode("ascii")
    with os.fdopen(channel, "wb") as pipe:
        pipe.write(struct.pack(">I", len(frame)))
        pipe.write(frame)
    sys.stdout.flush()
    # Threads that the configuration may have left running must not hold the hub's start.
    os._exit(0)


def run(request):
    try:
        from traitlets.config.loader import Config, LazyConfigValue, PyFileConfigLoader
    except ImportError as error:
        return {"no_traitlets": {"executable": sys.executable, "message": str(error)}}
    path = request["file"]
    try:
        config = PyFileConfigLoader(os.path.basename(path), path=os.path.dirname(path)).load_config()
    except BaseException as error:
        return {"error": describe(error)}
    sections = []
    stray = []
    for name, section in config.items():
        if not isinstance(section, Config):
            stray.append(str(name))
            continue
        options = []
        for option, value in section.items():
            try:
                if isinstance(value, Config):
                    if not value:
                        continue
                    raise Refused("sections inside of sections are not supported")
                if isinstance(value, LazyConfigValue):
                    value = {"lazy": lazy(value)}
                else:
                    value = {"value": encode(value)}
            except Refused as error:
                return {"error": {"kind": "", "message": f"c.{name}.{option}: {error}", "file": path}}
            options.append([str(option), value])
        sections.append([str(name), options])
    return {"sections": sections, "stray": stray}


def lazy(value):
    update = value._update
    return {
        "extend": [encode(item) for item in value._extend],
        "prepend": [encode(item) for item in value._prepend],
        "inserts": [[int(index), encode(item)] for index, item in value._inserts],
        "update": None if update is None else encode(update),
    }


def encode(value, depth=0):
    """JSON for plain values; objects with one key that begins with "$" for all others."""
    if depth > DEEPEST:
        raise Refused("the value is nested too deeply")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        value = int(value)
        return value if -(2**63) <= value < 2**63 else encode(float(value))
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": repr(float(value))}
    if isinstance(value, str):
        return text(value)
    if isinstance(value, (bytes, bytearray)):
        return {"$bytes": bytes(value).hex()}
    if isinstance(value, (list, tuple)):
        return [encode(item, depth + 1) for item in value]
    if isinstance(value, (set, frozenset)):
        return {"$set": [encode(item, depth + 1) for item in sorted(value, key=repr)]}
    if isinstance(value, dict):
        return {"$dict": [[key_text(key), encode(item, depth + 1)] for key, item in value.items()]}
    if isinstance(value, os.PathLike):
        return text(os.fsdecode(os.fspath(value)))
    if isinstance(value, datetime.timedelta):
        seconds = value.total_seconds()
        return int(seconds) if seconds == int(seconds) else seconds
    if isinstance(value, type):
        return {"$class": named(value)}
    if callable(value):
        return {"$callable": named(value)}
    return {"$object": named(type(value))}


def key_text(key):
    if isinstance(key, str):
        return text(key)
    if isinstance(key, bytes):
        return key.decode("utf-8", "replace")
    if isinstance(key, (bool, int, float)):
        return str(key)
    raise Refused(f"a dictionary's key is of type {type(key).__name__}, but must be a text")


def text(value):
    """The text without halves of surrogate pairs, which no JSON reader takes."""
    return str(value).encode("utf-8", "replace").decode("utf-8")


def named(thing):
    thing = getattr(thing, "func", thing)
    name = getattr(thing, "__qualname__", None) or getattr(type(thing), "__qualname__", "?")
    module = getattr(thing, "__module__", None)
    return text(name if module in (None, "builtins", "__main__") else f"{module}.{name}")


def describe(error):
    """What went wrong, and in which line of the site's own files."""
    kind = type(error).__name__
    if isinstance(error, SyntaxError):
        return {
            "kind": kind,
            "message": short(error.msg),
            "file": text(error.filename or ""),
            "line": error.lineno,
            "source": short((error.text or "").strip()),
        }
    message = short(str(error))
    if isinstance(error, SystemExit):
        message = f"the file ended the program with {error.code!r}"
    found = {"kind": kind, "message": short(message)}
    frames = []
    trace = error.__traceback__
    while trace is not None:
        frames.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    foreign = {sysconfig.get_paths()[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    own = [frame for frame in frames if not frame[0].startswith("<") and not frame[0].startswith(tuple(foreign))]
    if own:
        file, line = own[-1]
        found.update(file=text(file), line=line, source=short(linecache.getline(file, line).strip()))
    return found


def short(message):
    message = text(message)
    return message if len(message) <= LONGEST_MESSAGE else message[:LONGEST_MESSAGE] + "…"
