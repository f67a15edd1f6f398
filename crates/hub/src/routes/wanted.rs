//! The routes that the database asks for.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use orrery_core::phase::Phase;
use orrery_core::routes::Route;
use orrery_core::{ServerName, UserName};
use orrery_store::{ConnectionTrait, StoreError, runs, services, spawners};
use serde_json::json;

use crate::servers::url_of;
use crate::urls::Urls;

/// What the proxy's table should hold.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// These, with these targets.
    pub(super) routes: BTreeMap<String, Route>,
    /// These may be there or not: their servers start or stop just now.
    pub(super) in_flux: BTreeSet<String>,
}

impl Wanted {
    /// Whether a route should not be there.
    pub(super) fn is_stale(&self, spec: &str) -> bool {
        !self.routes.contains_key(spec) && !self.in_flux.contains(spec)
    }
}

/// A server's route.
pub(super) fn server_route(user: &UserName, server: &ServerName, target: &str) -> Route {
    Route {
        target: target.to_owned(),
        data: json!({ "user": user.as_str(), "server_name": server.as_str() }),
    }
}

/// Reads what is wanted beside the hub's own and the configured routes.
pub(super) async fn of_database(
    connection: &impl ConnectionTrait,
    urls: &Urls,
) -> Result<Wanted, StoreError> {
    let mut wanted = Wanted::default();
    let mut ready = HashMap::new();
    for run in runs::standing(connection).await? {
        let (Ok(user), Ok(server)) = (
            UserName::parse(&run.user_name),
            ServerName::parse(&run.server_name),
        ) else {
            continue;
        };
        if run.phase == Phase::Ready {
            if let Some(spawner) = run.spawner_id {
                ready.insert(spawner, (user, server));
            }
        } else {
            wanted.in_flux.insert(urls.server_spec(&user, &server));
        }
    }
    for active in spawners::list_active(connection).await? {
        if let Some((user, server)) = ready.get(&active.spawner.id) {
            let route = server_route(user, server, &url_of(&active.server));
            wanted.routes.insert(urls.server_spec(user, server), route);
        }
    }
    for service in services::list(connection).await? {
        let Some(target) = service.fields.url.as_deref().and_then(host_of) else {
            continue;
        };
        let spec = urls.service_spec(&service.fields.name);
        let data = json!({ "service": service.fields.name });
        wanted.routes.insert(spec, Route { target, data });
    }
    Ok(wanted)
}

/// `http://host:port` of a URL: routes of services leave the path out, as upstream's do.
fn host_of(url: &str) -> Option<String> {
    let uri: http::Uri = url.parse().ok()?;
    Some(format!("{}://{}", uri.scheme_str()?, uri.authority()?))
}
