# The hub's configuration; `make install_jupyterhub` puts it to /etc/jupyterhub/jupyterhub_config.py.
# Options are those of JupyterHub 6.1; `orrery --help-all` lists them.

c = get_config()  # noqa

# --- the address -------------------------------------------------------------------------------------------------
# Everything but this one address stays on the machine itself. Say it to Ansible too: orrery_url in inventory.ini.
# c.JupyterHub.bind_url = "http://:8000"
# c.JupyterHub.ssl_key = "/etc/jupyterhub/key.pem"
# c.JupyterHub.ssl_cert = "/etc/jupyterhub/cert.pem"

# --- who comes in ------------------------------------------------------------------------------------------------
# People log in with the accounts and passwords of the machine (PAM). Nobody may, until one of these says so:
# c.Authenticator.allowed_users = {"ada", "bob"}
# c.LocalAuthenticator.allowed_groups = {"students"}
# c.Authenticator.allow_all = True
# Administrators see everybody's servers and the admin page:
# c.Authenticator.admin_users = {"grace"}

# --- what is started for them ------------------------------------------------------------------------------------
# A server of JupyterLab under their own account, from the virtual environment that Ansible makes:
# c.Spawner.cmd = ["/opt/jupyterhub/bin/jupyterhub-singleuser"]
c.Spawner.default_url = "/lab"
# c.Spawner.notebook_dir = "~"
# c.Spawner.mem_limit = "2G"
# c.Spawner.cpu_limit = 1
# c.JupyterHub.allow_named_servers = True

# --- restarts ----------------------------------------------------------------------------------------------------
# A restart or an upgrade of the hub ends nobody's work: the proxy and the servers go on, and the new hub finds them.
c.JupyterHub.cleanup_servers = False
c.JupyterHub.cleanup_proxy = False

# --- state -------------------------------------------------------------------------------------------------------
# A SQLite file in /srv/jupyterhub. For many people, PostgreSQL:
# c.JupyterHub.db_url = "postgresql://jupyterhub@localhost/jupyterhub"
