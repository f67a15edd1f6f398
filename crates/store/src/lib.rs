//! The database: JupyterHub's tables, ours beside them, and the queries on them.
