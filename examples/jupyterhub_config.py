# A small group on one machine: one password for all, servers as processes of the hub's own user.
# Start it with `orrery -f examples/jupyterhub_config.py`.

c = get_config()  # noqa

c.JupyterHub.bind_url = "http://127.0.0.1:8000"

c.JupyterHub.authenticator_class = "shared-password"
c.SharedPasswordAuthenticator.user_password = "change me, please"
c.Authenticator.allowed_users = {"ada", "bob"}

# Administrators log in with a password of their own, at least 32 characters long.
# c.Authenticator.admin_users = {"grace"}
# c.SharedPasswordAuthenticator.admin_password = "..."

# All servers run as the user who runs the hub: this protects nobody from anybody.
c.JupyterHub.spawner_class = "simple"
c.SimpleLocalProcessSpawner.home_dir_template = "/tmp/orrery/{username}"
c.Spawner.default_url = "/lab"
