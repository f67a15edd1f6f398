//! Roles and scopes: what exists, how abbreviations expand, and what a requester may do.
//!
//! A *raw* scope is text as it stands in a role, a token or a request: `servers!user`, `self`,
//! `inherit`. [`Definitions`] knows every scope there is and turns raw scopes into a [`ScopeSet`],
//! which holds expanded scopes only and answers questions. Everything follows JupyterHub 6.1.1,
//! against which `tests/scopes.rs` compares this code.

mod definitions;
mod describe;
mod fields;
mod grant;
mod names;
pub mod roles;
mod set;
mod table;

pub use definitions::{CustomScope, Definitions, ScopeError};
pub use describe::Description;
pub use fields::{group_fields, server_fields, service_fields, user_fields};
pub use grant::{
    Client, Owner, Resolved, Share, TokenScopes, access_scopes, filter_share_scopes,
    identify_scopes,
};
pub use names::Names;
pub use set::{Access, Denied, Filters, Groups, Memberships, NoGroups, ScopeSet, Target};
pub use table::Scope;
