//! `/hub/spawn`: the options of a server, and its start.

use axum::body::Bytes;
use axum::extract::{OriginalUri, Path, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{Html, IntoResponse as _, Response};
use base64::Engine as _;
use minijinja::context;
use minijinja::value::{Serde, Value};
use serde_json::{Map, Value as Json, json};
use std::sync::Arc;

use super::PageServer;
use super::respond::{frame, page_server, page_user};
use super::target::{ServerTarget, next_or};
use crate::audit::{Action, Event};
use crate::auth::{Asking, Requester, auth_state, login, redirects, xsrf};
use crate::config::FormReading;
use crate::error::{Error, Result};
use crate::multipart;
use crate::servers::{StartError, StartRequest};
use crate::state::AppState;

/// Fields that an options form may have.
const MAX_FIELDS: usize = 1000;

/// The names in the path: nobody, a user, or a user and a server.
type Names = Option<Path<Vec<(String, String)>>>;

/// `GET /hub/spawn[/:user[/:server]]`: the options form, or the start itself where there is none or
/// the query brings the options.
pub(super) async fn show(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    OriginalUri(uri): OriginalUri,
    names: Names,
) -> Result<Response> {
    let target = find(&hub, &requester, names.as_ref()).await?;
    let display_name = login::query(&uri, "display_name").filter(|name| !name.is_empty());
    if !target.server.is_default() {
        hub.servers
            .check_named_server(&target.user, &target.server, display_name.as_deref(), true)
            .await?;
    }
    let view = target.view(&hub).await?;
    if let Some(view) = view.filter(|view| view.phase.is_active() && !view.failing()) {
        let to = if view.ready() {
            next_or(&hub, &requester, &uri, &target.url(&hub))
        } else {
            target.pending_url(&hub, &uri)
        };
        return Ok(found(&to));
    }

    let options = options_in_query(&uri)?;
    let mut failure = None;
    if !options.is_empty() {
        let options = read(hub.config.spawner.options_from_form, options);
        match start(
            &hub,
            &requester,
            &target,
            &uri,
            display_name.clone(),
            Some(options),
        )
        .await
        {
            Ok(response) => return Ok(response),
            Err(error) => failure = Some(error),
        }
    }
    if hub.config.spawner.options_form.is_empty() {
        return match failure {
            Some(error) => Err(error.into()),
            None => Ok(start(&hub, &requester, &target, &uri, display_name, None).await?),
        };
    }
    form(&hub, &requester, &target, &uri, failure).await
}

/// `POST /hub/spawn[/:user[/:server]]`: the form, filled in.
pub(super) async fn submit(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    OriginalUri(uri): OriginalUri,
    names: Names,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response> {
    let target = find(&hub, &requester, names.as_ref()).await?;
    if !target.server.is_default() {
        hub.servers
            .check_named_server(&target.user, &target.server, None, true)
            .await?;
    }
    if let Some(view) = target
        .view(&hub)
        .await?
        .filter(|view| view.phase.is_active() && !view.failing())
    {
        return Err(Error::bad_request(match view.pending() {
            Some(pending) => format!("{} is pending {pending}", view.log_name()),
            None => format!("{} is already running", view.log_name()),
        }));
    }
    let options = read(
        hub.config.spawner.options_from_form,
        options_in_form(&headers, &body)?,
    );
    match start(&hub, &requester, &target, &uri, None, Some(options)).await {
        Ok(response) => Ok(response),
        Err(error) => form(&hub, &requester, &target, &uri, Some(error)).await,
    }
}

async fn find(
    hub: &AppState,
    requester: &Requester,
    names: Option<&Path<Vec<(String, String)>>>,
) -> Result<ServerTarget> {
    let named = |kind: &str| {
        names
            .and_then(|Path(names)| names.iter().find(|(name, _)| name == kind))
            .map(|(_, value)| value.as_str())
    };
    ServerTarget::find(hub, requester, named("user"), named("server")).await
}

async fn start(
    hub: &AppState,
    requester: &Requester,
    target: &ServerTarget,
    uri: &Uri,
    display_name: Option<String>,
    options: Option<Json>,
) -> Result<Response, StartError> {
    let request = StartRequest {
        options,
        display_name: display_name.filter(|_| !target.server.is_default()),
    };
    match hub
        .servers
        .start(&target.user, &target.server, request)
        .await
    {
        Ok(_) => {
            let event = Event::new(Action::ServerStart)
                .by(requester)
                .on_server(&target.user.name, target.server.as_str());
            hub.audit.record_others(event).await;
            Ok(found(&target.pending_url(hub, uri)))
        }
        // Somebody was quicker: the same person in another tab.
        Err(
            StartError::Pending {
                pending: "spawn", ..
            }
            | StartError::AlreadyRunning { .. },
        ) => Ok(found(&target.pending_url(hub, uri))),
        Err(error) => Err(error),
    }
}

/// The form, with what was wrong with the last try.
async fn form(
    hub: &AppState,
    requester: &Requester,
    target: &ServerTarget,
    uri: &Uri,
    failure: Option<StartError>,
) -> Result<Response> {
    let (status, message) = match failure {
        None => (StatusCode::OK, None),
        // What is the hub's own fault has its page elsewhere.
        Some(error @ (StartError::Store(_) | StartError::Internal(_))) => return Err(error.into()),
        Some(error) => (error.status(), Some(error.to_string())),
    };
    let frame = frame(hub, requester).await?;
    let server = match target.view(hub).await? {
        Some(view) => page_server(&view, true),
        None => PageServer {
            name: target.server.as_str().to_owned(),
            url: target.url(hub),
            options_form: true,
            ..PageServer::default()
        },
    };
    let path = redirects::with_query(
        uri.path(),
        &redirects::query_pairs(uri)
            .into_iter()
            .filter(|(key, _)| key != xsrf::NAME)
            .chain([(xsrf::NAME.to_owned(), requester.xsrf_token().to_owned())])
            .collect::<Vec<_>>(),
    );
    let html = hub.templates.render(
        "spawn.html",
        context! {
            for_user => Value::from_object(page_user(hub, &target.user).await?),
            server_name => target.server.as_str(),
            spawner_options_form => hub.config.spawner.options_form.as_str(),
            error_message => message,
            error_html_message => (),
            html_error_message => (),
            url => path,
            auth_state => Serde(auth_state::of(hub, &target.user).await?),
            spawner => Value::from_dyn_object(Arc::new(server)),
            ..frame.value()
        },
    )?;
    Ok((status, Html(html)).into_response())
}

type Fields = Vec<(String, Vec<Json>)>;

/// User options in the query: those named `opt-…`, or, as before JupyterHub 5, all that are not
/// the hub's own where there is none of them.
fn options_in_query(uri: &Uri) -> Result<Fields> {
    let (mut new, mut old) = (Fields::new(), Fields::new());
    for (key, value) in redirects::query_pairs(uri) {
        if value.is_empty() || matches!(key.as_str(), "next" | "display_name" | xsrf::NAME) {
            continue;
        }
        match key.strip_prefix("opt-") {
            Some("") => {
                return Err(Error::new(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    "Invalid user-option name opt-",
                ));
            }
            Some(name) => push(&mut new, name, value.into()),
            None => push(&mut old, &key, value.into()),
        }
    }
    Ok(if new.is_empty() { old } else { new })
}

/// User options in a form, sent as either kind of form. Files come as `<field>_file`.
fn options_in_form(headers: &HeaderMap, body: &Bytes) -> Result<Fields> {
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let mut fields = Fields::new();
    if let Some((_, rest)) = content_type
        .starts_with("multipart/form-data")
        .then(|| content_type.split_once("boundary="))
        .flatten()
    {
        let boundary = rest
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .trim_matches('"');
        for field in multipart::fields(body, boundary) {
            if let Some(file_name) = field.file_name {
                // Bytes in JSON, as upstream keeps them in its database.
                let data = base64::engine::general_purpose::STANDARD.encode(&field.content);
                let file = json!({
                    "filename": file_name,
                    "body": { "__jupyterhub_bytes__": true, "data": data },
                    "content_type": field.content_type.unwrap_or_else(|| "application/unknown".to_owned()),
                });
                push(&mut fields, &format!("{}_file", field.name), file);
            } else {
                let text = String::from_utf8(field.content.to_vec()).map_err(|_| {
                    Error::bad_request(format!(
                        "The field {:?} of the form is not UTF-8.",
                        field.name
                    ))
                })?;
                push(&mut fields, &field.name, text.into());
            }
        }
    } else {
        std::str::from_utf8(body).map_err(|_| Error::bad_request("The form is not UTF-8."))?;
        for (key, value) in form_urlencoded::parse(body) {
            push(&mut fields, &key, value.into_owned().into());
        }
    }
    fields.retain(|(name, _)| name != xsrf::NAME);
    if fields.len() > MAX_FIELDS {
        return Err(Error::bad_request("The form has too many fields."));
    }
    Ok(fields)
}

fn push(fields: &mut Fields, name: &str, value: Json) {
    match fields.iter_mut().find(|(known, _)| known == name) {
        Some((_, values)) => values.push(value),
        None => fields.push((name.to_owned(), vec![value])),
    }
}

/// `Spawner.options_from_form`.
fn read(reading: FormReading, fields: Fields) -> Json {
    let options: Map<String, Json> = fields
        .into_iter()
        .map(|(name, mut values)| {
            let value = match (reading, values.len()) {
                (FormReading::Simple, 1) => match values.remove(0) {
                    // What browsers send for a box that is ticked.
                    Json::String(text) if text == "on" => true.into(),
                    value => value,
                },
                _ => values.into(),
            };
            (name, value)
        })
        .collect();
    options.into()
}

/// 302, as upstream redirects.
pub(super) fn found(url: &str) -> Response {
    match axum::http::HeaderValue::from_str(url) {
        Ok(location) => (StatusCode::FOUND, [(header::LOCATION, location)]).into_response(),
        Err(_) => crate::error::redirect("/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_a_query_are_its_prefixed_names_or_all_foreign_ones() {
        for (query, expected) in [
            ("", json!({})),
            ("next=/x&display_name=y&_xsrf=z", json!({})),
            (
                "opt-size=s&opt-size=l&image=old",
                json!({ "size": ["s", "l"] }),
            ),
            ("image=old&next=/x", json!({ "image": ["old"] })),
        ] {
            let uri: Uri = format!("/hub/spawn?{query}").parse().expect("a path");
            let options = read(
                FormReading::Passthrough,
                options_in_query(&uri).expect("options"),
            );
            assert_eq!(options, expected, "{query}");
        }
        let unnamed: Uri = "/hub/spawn?opt-=1".parse().expect("a path");
        assert!(options_in_query(&unnamed).is_err());
    }

    #[test]
    fn both_kinds_of_form_give_the_same_options() {
        let mut headers = HeaderMap::new();
        let plain = options_in_form(&headers, &Bytes::from_static(b"size=s&gpu=on&_xsrf=t"))
            .expect("a form");
        headers.insert(
            header::CONTENT_TYPE,
            "multipart/form-data; boundary=x".parse().expect("a header"),
        );
        let parts = Bytes::from_static(
            b"--x\r\nContent-Disposition: form-data; name=\"size\"\r\n\r\ns\r\n\
              --x\r\nContent-Disposition: form-data; name=\"gpu\"\r\n\r\non\r\n\
              --x\r\nContent-Disposition: form-data; name=\"_xsrf\"\r\n\r\nt\r\n--x--",
        );
        assert_eq!(options_in_form(&headers, &parts).expect("a form"), plain);
        assert_eq!(
            read(FormReading::Passthrough, plain.clone()),
            json!({ "size": ["s"], "gpu": ["on"] })
        );
        assert_eq!(
            read(FormReading::Simple, plain),
            json!({ "size": "s", "gpu": true })
        );
    }

    #[test]
    fn a_file_comes_with_its_bytes_and_bad_text_is_refused() {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::CONTENT_TYPE,
            "multipart/form-data; boundary=x".parse().expect("a header"),
        );
        let file = Bytes::from_static(
            b"--x\r\nContent-Disposition: form-data; name=\"key\"; filename=\"a.bin\"\r\n\r\n\xff\x00\r\n--x--",
        );
        let options = read(
            FormReading::Simple,
            options_in_form(&headers, &file).expect("a form"),
        );
        assert_eq!(options["key_file"]["body"]["data"], "/wA=");
        let bad = Bytes::from_static(
            b"--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n\xff\r\n--x--",
        );
        assert!(options_in_form(&headers, &bad).is_err());
        assert!(options_in_form(&HeaderMap::new(), &Bytes::from_static(b"a=\xff")).is_err());
    }
}
