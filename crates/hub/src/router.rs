//! The one list of the hub's routes, each with what its requester needs.

use std::sync::Arc;

use axum::extract::{
    DefaultBodyLimit, FromRequestParts as _, MatchedPath, OriginalUri, RawPathParams, Request,
    State,
};
use axum::handler::Handler;
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodFilter, on};
use axum::{Extension, Router};
use orrery_core::escape::decode;
use orrery_core::scopes::{Denied, Scope, Target};

use crate::audit::{Action, Event};
use crate::auth::{self, Requester};
use crate::error::{Error, ErrorBody, Result};
use crate::openapi::{Described, Document, Operation};
use crate::state::AppState;
use crate::{api, bodies, pages};

/// The largest body that is read, in bytes: an options form may carry a small file.
pub const MAX_BODY: usize = 10 * 1024 * 1024;

/// What a route needs of whoever asks. A route cannot be added without saying it.
#[derive(Clone, Copy, Debug)]
pub enum Needs {
    /// Nothing: also people who are not logged in.
    Nothing,
    /// A browser that is logged in; others are sent to the login page.
    Login,
    /// As [`Needs::Login`], and one of these scopes for whom the path names.
    LoginAnd(&'static [Scope]),
    /// Any valid token or session; others get 403.
    Credentials,
    /// One of these scopes: for whom or what the path names, or without limits if it names nothing.
    Scopes(&'static [Scope]),
    /// One of these scopes for the server that the path names; for the default server, if it names none.
    ServerScopes(&'static [Scope]),
    /// One of these scopes, be it for some targets only: the handler filters what it shows.
    SomeScopes(&'static [Scope]),
}

/// Collects routes. Each method of each path comes with its [`Needs`].
#[derive(Default)]
pub struct Routes(Router<AppState>);

impl Routes {
    /// A `GET` (and `HEAD`) route.
    #[must_use]
    pub fn get<H, T>(self, path: &str, needs: Needs, handler: H) -> Self
    where
        H: Handler<T, AppState>,
        T: 'static,
    {
        self.add(MethodFilter::GET, path, needs, handler)
    }

    /// A `POST` route.
    #[must_use]
    pub fn post<H, T>(self, path: &str, needs: Needs, handler: H) -> Self
    where
        H: Handler<T, AppState>,
        T: 'static,
    {
        self.add(MethodFilter::POST, path, needs, handler)
    }

    /// A `PUT` route.
    #[must_use]
    pub fn put<H, T>(self, path: &str, needs: Needs, handler: H) -> Self
    where
        H: Handler<T, AppState>,
        T: 'static,
    {
        self.add(MethodFilter::PUT, path, needs, handler)
    }

    /// A `PATCH` route.
    #[must_use]
    pub fn patch<H, T>(self, path: &str, needs: Needs, handler: H) -> Self
    where
        H: Handler<T, AppState>,
        T: 'static,
    {
        self.add(MethodFilter::PATCH, path, needs, handler)
    }

    /// A `DELETE` route.
    #[must_use]
    pub fn delete<H, T>(self, path: &str, needs: Needs, handler: H) -> Self
    where
        H: Handler<T, AppState>,
        T: 'static,
    {
        self.add(MethodFilter::DELETE, path, needs, handler)
    }

    /// All routes of another list.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        Self(self.0.merge(other.0))
    }

    fn add<H, T>(self, method: MethodFilter, path: &str, needs: Needs, handler: H) -> Self
    where
        H: Handler<T, AppState>,
        T: 'static,
    {
        assert!(
            path != "/api" && !path.starts_with("/api/"),
            "{path} is part of the API, so it needs a description: see ApiRoutes"
        );
        self.add_any(method, path, needs, handler)
    }

    fn add_any<H, T>(self, method: MethodFilter, path: &str, needs: Needs, handler: H) -> Self
    where
        H: Handler<T, AppState>,
        T: 'static,
    {
        let guarded =
            on(method, handler).route_layer(from_fn(move |request: Request, next: Next| {
                guard(needs, request, next)
            }));
        Self(self.0.route(path, guarded))
    }
}

/// Collects routes of the REST API: each comes with its [`Operation`] as well, and so stands in the
/// OpenAPI document and in the documentation.
#[derive(Default)]
pub struct ApiRoutes {
    routes: Routes,
    described: Vec<Described>,
}

impl ApiRoutes {
    /// A `GET` (and `HEAD`) route.
    #[must_use]
    pub fn get<H, T>(
        self,
        path: &str,
        needs: Needs,
        operation: &'static Operation,
        handler: H,
    ) -> Self
    where
        H: Handler<T, AppState>,
        T: 'static,
    {
        self.add(Method::GET, path, needs, operation, handler)
    }

    /// A `GET` route whose answer is kept: see [`auth::answers::keep`] for which may be.
    #[must_use]
    pub fn get_kept<H, T>(
        self,
        path: &str,
        needs: Needs,
        operation: &'static Operation,
        handler: H,
    ) -> Self
    where
        H: Handler<T, AppState>,
        T: 'static,
    {
        let kept = handler.layer(from_fn(auth::answers::keep));
        self.add(Method::GET, path, needs, operation, kept)
    }

    /// A `POST` route.
    #[must_use]
    pub fn post<H, T>(
        self,
        path: &str,
        needs: Needs,
        operation: &'static Operation,
        handler: H,
    ) -> Self
    where
        H: Handler<T, AppState>,
        T: 'static,
    {
        self.add(Method::POST, path, needs, operation, handler)
    }

    /// A `PUT` route.
    #[must_use]
    pub fn put<H, T>(
        self,
        path: &str,
        needs: Needs,
        operation: &'static Operation,
        handler: H,
    ) -> Self
    where
        H: Handler<T, AppState>,
        T: 'static,
    {
        self.add(Method::PUT, path, needs, operation, handler)
    }

    /// A `PATCH` route.
    #[must_use]
    pub fn patch<H, T>(
        self,
        path: &str,
        needs: Needs,
        operation: &'static Operation,
        handler: H,
    ) -> Self
    where
        H: Handler<T, AppState>,
        T: 'static,
    {
        self.add(Method::PATCH, path, needs, operation, handler)
    }

    /// A `DELETE` route.
    #[must_use]
    pub fn delete<H, T>(
        self,
        path: &str,
        needs: Needs,
        operation: &'static Operation,
        handler: H,
    ) -> Self
    where
        H: Handler<T, AppState>,
        T: 'static,
    {
        self.add(Method::DELETE, path, needs, operation, handler)
    }

    /// All routes of another list.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        self.described.extend(other.described);
        Self {
            routes: self.routes.merge(other.routes),
            described: self.described,
        }
    }

    /// What the routes say of themselves.
    pub fn described(&self) -> &[Described] {
        &self.described
    }

    fn add<H, T>(
        mut self,
        method: Method,
        path: &str,
        needs: Needs,
        operation: &'static Operation,
        handler: H,
    ) -> Self
    where
        H: Handler<T, AppState>,
        T: 'static,
    {
        let filter =
            MethodFilter::try_from(method.clone()).expect("a method that HTTP itself defines");
        self.routes = self.routes.add_any(filter, path, needs, handler);
        self.described.push(Described {
            method,
            path: path.to_owned(),
            needs,
            operation,
        });
        self
    }
}

/// The whole hub.
pub fn router(hub: AppState) -> Router {
    let api_routes = api::routes();
    let document = Arc::new(Document::new(api_routes.described(), &hub.urls.hub));
    let hub_routes = Routes::default()
        .merge(auth::routes())
        .merge(api_routes.routes)
        .merge(api::other_routes())
        .merge(pages::routes());
    let prefix = hub.urls.hub.trim_end_matches('/').to_owned();
    Router::new()
        .nest(
            &prefix,
            hub_routes
                .0
                .method_not_allowed_fallback(other_method)
                .fallback(pages::not_found),
        )
        // `nest` does not match the prefix with its slash.
        .route(&format!("{prefix}/"), axum::routing::get(pages::root))
        .fallback(pages::outside)
        .layer(Extension(document))
        // Each layer is around those above it.
        .layer(from_fn_with_state(hub.clone(), auth::identify))
        .layer(from_fn(crate::etag::tag))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn_with_state(hub.clone(), bodies::bound))
        .layer(from_fn_with_state(hub.clone(), pages::render_errors))
        .layer(from_fn_with_state(hub.clone(), crate::metrics::measure))
        .with_state(hub)
}

/// A method that a route does not have. The API answers every `OPTIONS`, as browsers send it before
/// requests from other sites.
async fn other_method(
    State(hub): State<AppState>,
    method: Method,
    OriginalUri(uri): OriginalUri,
) -> Response {
    if method == Method::OPTIONS && auth::is_api(&hub, uri.path()) {
        return ([(header::CONTENT_TYPE, "application/json")], "").into_response();
    }
    Error::new(StatusCode::METHOD_NOT_ALLOWED, "").into_response()
}

/// Lets a request through to its handler if its requester has what the route needs.
async fn guard(needs: Needs, request: Request, next: Next) -> Response {
    let asked = Asked::of(&request);
    let (response, is_guards) = match check(needs, request).await {
        Ok(request) => (next.run(request).await, false),
        Err(Refusal::Answer(error)) => (error.into_response(), true),
        Err(Refusal::LogIn(url)) => return crate::error::redirect(&url),
    };
    // What the guard hides from a requester is a refusal as well.
    let is_refused = response.status() == StatusCode::FORBIDDEN
        || (is_guards && response.status() == StatusCode::NOT_FOUND);
    if is_refused && let Some(asked) = asked {
        asked.note_denial(&response);
    }
    response
}

/// What the audit log says of a refused request.
struct Asked {
    requester: Arc<Requester>,
    method: Method,
    /// The route's pattern.
    route: MatchedPath,
    uri: Uri,
}

impl Asked {
    fn of(request: &Request) -> Option<Self> {
        let extensions = request.extensions();
        let uri = extensions
            .get::<OriginalUri>()
            .map_or(request.uri(), |original| &original.0);
        Some(Self {
            requester: extensions.get::<Arc<Requester>>()?.clone(),
            method: request.method().clone(),
            route: extensions.get::<MatchedPath>()?.clone(),
            uri: uri.clone(),
        })
    }

    fn note_denial(&self, response: &Response) {
        let route = self.route.as_str();
        // No other part of the path is looked at: it may be a token.
        let named = |kind: &str| {
            let parameter = format!("{{{kind}}}");
            let place = route.split('/').position(|part| part == parameter)?;
            decode(self.uri.path().split('/').nth(place)?)
        };
        let mut event = Event::new(Action::Denied);
        if let Some(user) = named("user") {
            event = match named("server") {
                Some(server) => event.on_server(&user, &server),
                None => event.on_user(&user),
            };
        } else if let Some(group) = named("group") {
            event = event.on_group(&group);
        } else if let Some(service) = named("service") {
            event = event.on_service(&service);
        }
        let answer = response.extensions().get::<ErrorBody>();
        let answer = answer.map_or("", |body| body.message.as_str());
        self.requester
            .note_denial(event, &self.method, route, answer);
    }
}

enum Refusal {
    Answer(Error),
    LogIn(String),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Answer(error)
    }
}

async fn check(needs: Needs, request: Request) -> Result<Request, Refusal> {
    let (mut parts, body) = request.into_parts();
    let requester = parts
        .extensions
        .get::<Arc<Requester>>()
        .cloned()
        .ok_or_else(|| {
            Error::Internal("a route stands outside the identifying layer".to_owned())
        })?;
    let missing_login = || match parts.method {
        axum::http::Method::GET | axum::http::Method::HEAD => {
            Refusal::LogIn(requester.login_url(&parts.uri, &parts.extensions))
        }
        _ => Refusal::Answer(Error::forbidden("")),
    };
    let missing_credentials =
        || Refusal::Answer(Error::forbidden("Missing or invalid credentials."));
    let (scopes, some) = match needs {
        Needs::Login | Needs::LoginAnd(_) if requester.user().is_none() => {
            return Err(missing_login());
        }
        Needs::Credentials | Needs::Scopes(_) | Needs::ServerScopes(_) | Needs::SomeScopes(_)
            if requester.identity.is_none() =>
        {
            return Err(missing_credentials());
        }
        Needs::Nothing | Needs::Login | Needs::Credentials => (None, false),
        Needs::LoginAnd(scopes) | Needs::Scopes(scopes) | Needs::ServerScopes(scopes) => {
            (Some(scopes), false)
        }
        Needs::SomeScopes(scopes) => (Some(scopes), true),
    };
    if let Some(scopes) = scopes {
        let parameters = RawPathParams::from_request_parts(&mut parts, &())
            .await
            .map_err(|_| Error::bad_request("The address is not valid UTF-8."))?;
        let named = |kind: &str| {
            parameters
                .iter()
                .find(|(name, _)| *name == kind)
                .map(|(_, value)| value)
        };
        let target = match (
            named("user"),
            named("server"),
            named("group"),
            named("service"),
        ) {
            (Some(user), Some(server), _, _) => Some(Target::Server { user, server }),
            (Some(user), ..) if matches!(needs, Needs::ServerScopes(_)) => {
                Some(Target::Server { user, server: "" })
            }
            (Some(user), ..) => Some(Target::User(user)),
            (_, _, Some(group), _) => Some(Target::Group(group)),
            (_, _, _, Some(service)) => Some(Target::Service(service)),
            _ => None,
        };
        let allowed = if some && scopes.iter().any(|scope| requester.scopes.has_some(*scope)) {
            Ok(())
        } else {
            requester.require(scopes, target).await?
        };
        match allowed {
            Ok(()) => {}
            Err(Denied::NotFound) => {
                return Err(
                    Error::not_found("No access to resources or resources not found").into(),
                );
            }
            Err(Denied::Forbidden) => {
                let names: Vec<_> = scopes.iter().map(|scope| scope.as_str()).collect();
                return Err(Error::forbidden(format!(
                    "Action is not authorized with current scopes; requires any of [{}]",
                    names.join(", ")
                ))
                .into());
            }
        }
    }
    Ok(Request::from_parts(parts, body))
}

/// Extracts the hub's state; a name for handlers to import.
pub type Hub = State<AppState>;
