"""A hub that cannot start: one clear sentence, an exit code, no flood, and soon."""

import os
import re
import socket
import sqlite3
import subprocess
import tempfile
from pathlib import Path

from harness.hub import Hub, command, environment, free_port
from harness.steps import Steps, require, same

FLOOD = re.compile(r"panicked at|RUST_BACKTRACE|stack backtrace|Traceback \(most recent call last\)|thread 'main'")
LONGEST = 20  # lines; an error is a sentence, perhaps with the place it speaks of


def tell(kind: str, steps: Steps) -> None:
    for case in CASES:
        with steps.step("start: " + case.__doc__.splitlines()[0]):
            with tempfile.TemporaryDirectory(prefix="orrery-bad-start-") as folder:
                case(kind, Path(folder))


def refused(kind: str, folder: Path, *arguments: str, says: list[str], seconds: float = 20, code: int | None = None) -> str:
    """Start a hub that must refuse, saying each of `says` (regular expressions) and little else."""
    result = subprocess.run(
        [*command(kind), *arguments], cwd=folder, env=environment(), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=seconds,
    )
    said = result.stdout
    require(result.returncode != 0, f"the exit code is 0; it said:\n{said}")
    require(result.returncode > 0, f"it was killed by signal {-result.returncode}:\n{said}")
    if code is not None:
        same(result.returncode, code, "exit code")
    for pattern in says:
        require(re.search(pattern, said, re.IGNORECASE), f"it does not say {pattern!r}:\n{said}")
    require(not FLOOD.search(said), f"a backtrace is in the answer:\n{said}")
    require(len(said.splitlines()) <= LONGEST, f"{len(said.splitlines())} lines:\n{said}")
    return said


def with_config(kind: str, folder: Path, text: str, *, says: list[str], name: str = "jupyterhub_config.py", before: str = "", arguments=()) -> str:
    (folder / name).write_text(before + text)
    return refused(kind, folder, "-f", name, *arguments, says=says)


def base(folder: Path, *, port: int | None = None, hub_port: int | None = None, api_port: int | None = None) -> str:
    return f"""\
c = get_config()  # noqa
c.JupyterHub.bind_url = "http://127.0.0.1:{port or free_port()}"
c.JupyterHub.hub_ip = "127.0.0.1"
c.JupyterHub.hub_port = {hub_port or free_port()}
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{api_port or free_port()}"
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.JupyterHub.spawner_class = "simple"
"""


def no_config(kind, folder):
    """the config file is missing"""
    refused(kind, folder, "-f", "not-there.py", says=[r"not-there\.py", r"no such file|not found|does not exist|missing"])


def config_is_a_folder(kind, folder):
    """the config file is a folder"""
    (folder / "folder.py").mkdir()
    refused(kind, folder, "-f", "folder.py", says=[r"folder\.py"])


def syntax_error(kind, folder):
    """the config file has a syntax error"""
    with_config(kind, folder, "c = get_config()\nc.JupyterHub.port = = 8000\n", says=[r"jupyterhub_config\.py", r"line 2|:2", r"SyntaxError|syntax"])


def raises(kind, folder):
    """the config file raises an exception"""
    text = "import os\ndef deep():\n    raise RuntimeError('the wheel is square')\ndeep()\n"
    with_config(kind, folder, text, says=[r"RuntimeError", r"the wheel is square", r"line 3|line 4|:3|:4"])


def misses_a_module(kind, folder):
    """the config file imports what is not installed"""
    with_config(kind, folder, "import a_module_of_nobody\n", says=[r"a_module_of_nobody", r"line 1|:1"])


def not_utf8(kind, folder):
    """the config file is not text"""
    (folder / "jupyterhub_config.py").write_bytes(b"\xff\xfe\x00c = 1\n")
    refused(kind, folder, "-f", "jupyterhub_config.py", says=[r"jupyterhub_config\.py"])


def ends_python(kind, folder):
    """the config file ends Python"""
    with_config(kind, folder, "import os\nos._exit(7)\n", says=[r"jupyterhub_config\.py|configuration"])


def bad_json(kind, folder):
    """a JSON config is not JSON"""
    with_config(kind, folder, '{"JupyterHub": {"port": 8000,}\n', says=[r"broken\.json", r"line|column"], name="broken.json")


def bad_toml(kind, folder):
    """a TOML config is not TOML"""
    with_config(kind, folder, "[JupyterHub]\nport = = 3\n", says=[r"broken\.toml", r"line|2"], name="broken.toml")


def unknown_option(kind, folder):
    """an unknown option of a known class, with the nearest name"""
    with_config(kind, folder, 'c.JupyterHub.bnd_url = "http://:8000"\n', says=[r"bnd_url", r"bind_url"], before=base(folder))


def unknown_command_line_option(kind, folder):
    """an unknown flag and an unknown option on the command line"""
    refused(kind, folder, "--no-such-flag", says=[r"no-such-flag"])
    refused(kind, folder, "--JupyterHub.prot=1", says=[r"prot", r"port"])


def wrong_type(kind, folder):
    """a value of the wrong type"""
    with_config(kind, folder, 'c.JupyterHub.hub_port = "many"\n', says=[r"hub_port", r"many"], before=base(folder))
    refused(kind, folder, "--port=many", says=[r"port", r"many"])


def callable_value(kind, folder):
    """a callable is refused by its option's name"""
    with_config(kind, folder, "c.Spawner.pre_spawn_hook = lambda spawner: None\n", says=[r"pre_spawn_hook"], before=base(folder))


def unknown_class(kind, folder):
    """an unknown spawner class is refused by its name"""
    with_config(kind, folder, 'c.JupyterHub.spawner_class = "nowhere.AtAllSpawner"\n', says=[r"nowhere\.AtAllSpawner"], before=base(folder))


def database_folder_missing(kind, folder):
    """the database's folder does not exist"""
    with_config(kind, folder, 'c.JupyterHub.db_url = "sqlite:///no/such/folder/hub.sqlite"\n', says=[r"no/such/folder/hub\.sqlite"], before=base(folder))


def database_is_garbage(kind, folder):
    """the database file is no database"""
    (folder / "hub.sqlite").write_bytes(os.urandom(8192))
    with_config(kind, folder, 'c.JupyterHub.db_url = "sqlite:///hub.sqlite"\n', says=[r"hub\.sqlite", r"not a database|database"], before=base(folder))


def database_is_a_folder(kind, folder):
    """the database file is a folder"""
    (folder / "hub.sqlite").mkdir()
    with_config(kind, folder, 'c.JupyterHub.db_url = "sqlite:///hub.sqlite"\n', says=[r"hub\.sqlite"], before=base(folder))


def database_from_the_future(kind, folder):
    """the database has a revision nobody knows"""
    with sqlite3.connect(folder / "hub.sqlite") as database:
        database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        database.execute("INSERT INTO alembic_version VALUES ('ffff00001111')")
        database.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name VARCHAR(255))")
    with_config(kind, folder, 'c.JupyterHub.db_url = "sqlite:///hub.sqlite"\n', says=[r"ffff00001111"], before=base(folder))


def database_url_is_strange(kind, folder):
    """the database address is of no known kind, or of nobody"""
    with_config(kind, folder, 'c.JupyterHub.db_url = "oracle://x/y"\n', says=[r"oracle"], before=base(folder))
    gone = free_port()
    said = with_config(
        kind, folder, f'c.JupyterHub.db_url = "postgresql://hub:a-db-password@127.0.0.1:{gone}/hub"\n', says=[rf"127\.0\.0\.1:{gone}|{gone}|refused"], before=base(folder)
    )
    require("a-db-password" not in said, f"the password is in the answer:\n{said}")


def port_taken(kind, folder):
    """the public, the hub's and the proxy API's port are taken"""
    for role in ("port", "hub_port", "api_port"):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            number = taken.getsockname()[1]
            (folder / "jupyterhub_config.py").write_text(base(folder, **{role: number}))
            refused(kind, folder, "-f", "jupyterhub_config.py", says=[str(number), r"in use|taken|answers|another program"], seconds=40)


def open_cookie_secret(kind, folder):
    """the cookie secret can be read by others, or is no secret"""
    secret = folder / "jupyterhub_cookie_secret"
    secret.write_text("0123456789abcdef" * 4 + "\n")
    secret.chmod(0o644)
    said = with_config(kind, folder, "", says=[r"jupyterhub_cookie_secret", r"permission|mode|read|0?600"], before=base(folder))
    require("0123456789abcdef" not in said, "the secret is in the answer")
    secret.chmod(0o600)
    secret.write_text("this is not hexadecimal\n")
    with_config(kind, folder, "", says=[r"jupyterhub_cookie_secret|cookie secret"], before=base(folder))


def weak_shared_password(kind, folder):
    """the shared password is too short"""
    text = 'c.JupyterHub.authenticator_class = "shared-password"\nc.SharedPasswordAuthenticator.user_password = "abc"\n'
    with_config(kind, folder, text, says=[r"user_password|password"], before=base(folder))


def nobody_leaves_a_process(kind, folder):
    """a hub that could not start has left no process behind"""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        hub = Hub(kind, f'c.JupyterHub.hub_port = {taken.getsockname()[1]}\nc.JupyterHub.authenticator_class = "dummy"\nc.Authenticator.allow_all = True\n')
        with hub:
            hub.start()
            require(hub.wait_exit(40) != 0, "the exit code is 0")
            with socket.socket() as probe:
                require(probe.connect_ex(("127.0.0.1", hub.port)) != 0, "somebody still listens on the public port")


CASES = [
    no_config, config_is_a_folder, syntax_error, raises, misses_a_module, not_utf8, ends_python, bad_json, bad_toml,
    unknown_option, unknown_command_line_option, wrong_type, callable_value, unknown_class,
    database_folder_missing, database_is_garbage, database_is_a_folder, database_from_the_future, database_url_is_strange,
    port_taken, open_cookie_secret, weak_shared_password, nobody_leaves_a_process,
]
