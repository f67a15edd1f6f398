//! Pages for people: templates, their values and the built-in assets.
//!
//! Templates carry JupyterHub's names, blocks and context variables, so that a site's own templates
//! (`{% extends "templates/home.html" %}`) work; the markup and the design are ours.

pub mod filters;
pub mod frame;
mod respond;
pub mod static_files;
pub mod templates;
pub mod values;

pub use frame::{Frame, ServiceLink, error_page};
pub use respond::{
    LoginForm, frame, login, logout, not_found, outside, page_server, page_user, render_errors, root, stranger_frame,
};
pub use templates::Templates;
pub use values::{PageServer, PageUser, Stamp};
