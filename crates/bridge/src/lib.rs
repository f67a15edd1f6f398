//! The Python bridge: runs jupyterhub_config.py and hands its values over.
