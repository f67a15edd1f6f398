# The configuration of the hub on this machine. Options are those of JupyterHub 6.1;
# `orrery --help-all` lists them, `orrery -f /etc/jupyterhub/jupyterhub_config.py --show-config` shows what holds.
# After a change: `systemctl reload orrery` takes over what can be taken over while it runs and says what cannot.

c = get_config()  # noqa

# Where people come to. Everything else stays on this machine.
# c.JupyterHub.bind_url = "http://:8000"
# c.JupyterHub.ssl_key = "/etc/jupyterhub/key.pem"
# c.JupyterHub.ssl_cert = "/etc/jupyterhub/cert.pem"

# Who comes in: accounts of this machine, by their passwords (PAM). Nobody may, until one of these says so.
# c.Authenticator.allowed_users = {"ada", "bob"}
# c.LocalAuthenticator.allowed_groups = {"students"}
# c.Authenticator.allow_all = True
# c.Authenticator.admin_users = {"grace"}

# What is started for them, as their own account. JupyterLab is expected in a virtual environment:
#   python3 -m venv /opt/jupyterhub && /opt/jupyterhub/bin/pip install jupyterhub==6.1.1 jupyterlab
# c.Spawner.cmd = ["/opt/jupyterhub/bin/jupyterhub-singleuser"]
c.Spawner.default_url = "/lab"
# c.Spawner.notebook_dir = "~"
# c.Spawner.mem_limit = "2G"
# c.Spawner.cpu_limit = 1

# A restart or an upgrade of the hub ends nobody's work: the proxy and the servers go on, and the new hub finds them.
c.JupyterHub.cleanup_servers = False
c.JupyterHub.cleanup_proxy = False

# State is in /srv/jupyterhub, readable for root alone. For many people, use PostgreSQL:
# c.JupyterHub.db_url = "postgresql://jupyterhub@localhost/jupyterhub"
