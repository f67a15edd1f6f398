//! The proxy and its routes: which are wanted stands in the database; the keeper makes it so.

mod keeper;
mod process;
mod table;
mod wanted;

pub use keeper::{Changes, Keeper, KeeperError, KeeperParts};
pub use process::{
    ProxyCommand, ProxyError, ProxyHold, ProxyProcess, ProxySettings, derived_token,
};
pub use table::HttpRouteTable;
