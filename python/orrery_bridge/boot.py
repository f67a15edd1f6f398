# The text that `python3 -c` runs. It reads one frame from standard input, which holds the
# bridge's modules and the request, and hands over to them. Nothing is installed.
import json, os, struct, sys, types

def _read(count):
    parts = b""
    while len(parts) < count:
        part = os.read(0, count - len(parts))
        if not part:
            raise SystemExit("orrery: the bridge's input ended early")
        parts += part
    return parts

_message = json.loads(_read(struct.unpack(">I", _read(4))[0]))
# With -c the working directory stands first in the path; the `jupyterhub` program has it not.
sys.path[:] = [entry for entry in sys.path if entry != ""]
sys.argv[:] = _message["argv"]
for _name, _source in _message["modules"]:
    _module = types.ModuleType(_name)
    _module.__dict__["__file__"] = "<" + _name + ">"
    sys.modules[_name] = _module
    exec(compile(_source, "<" + _name + ">", "exec"), _module.__dict__)
sys.modules["orrery_bridge.config"].main(_message["request"])
