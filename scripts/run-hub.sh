#!/bin/bash
# Starts the built hub for this machine; makes a configuration with a password at the first time. Ctrl-C ends it.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$PWD/.run
config=$folder/jupyterhub_config.py
venv=${ORRERY_VENV:-$PWD/.venv}
binary=${CARGO_TARGET_DIR:-$PWD/target}/release/orrery

mkdir -p "$folder/homes"
if [ ! -e "$config" ]; then
    password=$(python3 -c 'import secrets; print("-".join(secrets.token_hex(3) for _ in range(3)))')
    arguments='[]'
    [ "$(id -u)" != 0 ] || arguments='["--allow-root"]  # because this hub runs as root'
    # The password stands in it, so it is for its owner alone.
    (
        umask 077
        cat >"$config" <<PYTHON
# Made by \`make run\`, once; yours to change. All options: orrery --help-all
c = get_config()  # noqa
c.JupyterHub.bind_url = "http://127.0.0.1:8000"
c.JupyterHub.authenticator_class = "shared-password"
c.SharedPasswordAuthenticator.user_password = "$password"
c.Authenticator.allow_all = True
c.JupyterHub.spawner_class = "simple"
c.SimpleLocalProcessSpawner.home_dir_template = "$folder/homes/{username}"
c.Spawner.cmd = ["$venv/bin/jupyterhub-singleuser"]
c.Spawner.args = $arguments
c.Spawner.default_url = "/lab"
c.JupyterHub.allow_named_servers = True
PYTHON
    )
fi
password=$(sed -n 's/^c\.SharedPasswordAuthenticator\.user_password = "\(.*\)"$/\1/p' "$config")
address=$(sed -n 's/^c\.JupyterHub\.bind_url = "\(.*\)"$/\1/p' "$config")
cat <<TEXT

  Orrery starts at ${address:-http://127.0.0.1:8000}
  Log in with any name, for instance ada, and the password ${password:-that you set in $config}
  Ctrl-C ends it. The configuration and everybody's files are in $folder

TEXT
cd "$folder"
PATH="$venv/bin:$PATH" exec "$binary" -f "$config"
