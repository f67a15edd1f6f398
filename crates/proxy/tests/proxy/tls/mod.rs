//! TLS to users, to the API's clients, and to servers.

pub(crate) mod authority;

use std::fs;

use authority::{Authority, Pair};
use futures_util::{SinkExt, StreamExt};
use orrery_proxy::{Options, OurOptions};
use tempfile::tempdir;
use tokio_tungstenite::{client_async, tungstenite::Message};

use crate::support::{Origin, Proxy, Raw, TOKEN, eventually};

fn serving(pair: &Pair) -> Options {
    Options {
        ssl_key: Some(pair.key.clone()),
        ssl_cert: Some(pair.certificate.clone()),
        ours: OurOptions {
            threads: Some(1),
            ..OurOptions::default()
        },
        ..Options::default()
    }
}

/// The error that the proxy does not start with.
async fn refusal(options: Options) -> String {
    let options = Options {
        ip: Some("127.0.0.1".into()),
        port: Some(0),
        ..options
    };
    match orrery_proxy::start(options).await {
        Ok(_) => panic!("it started"),
        Err(error) => error.to_string(),
    }
}

// === Users ===

#[tokio::test]
async fn users_are_served_over_tls() {
    let folder = tempdir().unwrap();
    let site = Authority::new(folder.path(), "site");
    let origin = Origin::start().await;
    let proxy = Proxy::start(Options {
        default_target: Some(origin.url()),
        ..serving(&site.sign("proxy", &["localhost"]))
    })
    .await;
    let client = site.client(None);

    let answer = client.get(proxy.address(), "/headers").await;
    let headers = answer.text();
    assert!(
        headers.contains("x-forwarded-proto: https\n")
            && headers.contains("x-forwarded-port: 443\n"),
        "{headers}"
    );
    let large = "x".repeat(3_000_000);
    let request = format!(
        "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{large}",
        large.len()
    );
    let echoed = client.exchange(proxy.address(), &request).await;
    assert!(echoed.body == large.as_bytes(), "{}", echoed.body.len());
}

#[tokio::test]
async fn websockets_pass_through_tls_on_both_sides() {
    let folder = tempdir().unwrap();
    let site = Authority::new(folder.path(), "site");
    let pair = site.sign("both", &["localhost", "127.0.0.1"]);
    let origin = Origin::start_tls(pair.server()).await;
    let proxy = Proxy::start(Options {
        default_target: Some(format!("https://{}", origin.address)),
        client_ssl_ca: Some(site.file.clone()),
        ..serving(&pair)
    })
    .await;
    let stream = site.client(None).connect(proxy.address()).await.unwrap();
    let (mut socket, _) = client_async("wss://localhost/ws", stream).await.unwrap();
    // More than the buffers on the way hold, so that each direction has to wait for the other.
    for size in [1, 100, 70_000, 2_000_000] {
        let text = "x".repeat(size);
        socket.send(Message::text(text.clone())).await.unwrap();
        let answer = socket.next().await.unwrap().unwrap();
        assert!(answer == Message::text(text), "{size}");
    }
}

#[tokio::test]
async fn only_users_with_a_certificate_are_served_when_they_are_asked_for_one() {
    let folder = tempdir().unwrap();
    let site = Authority::new(folder.path(), "site");
    let people = Authority::new(folder.path(), "people");
    let strangers = Authority::new(folder.path(), "strangers");
    let proxy = Proxy::start(Options {
        ssl_ca: Some(people.file.clone()),
        ssl_request_cert: true,
        ssl_reject_unauthorized: true,
        ..serving(&site.sign("proxy", &["localhost"]))
    })
    .await;
    let address = proxy.address();
    let (ada, mallory) = (
        people.sign("ada", &["ada"]),
        strangers.sign("mallory", &["ada"]),
    );
    assert!(site.client(Some(&ada)).is_served(address).await);
    assert!(!site.client(Some(&mallory)).is_served(address).await);
    assert!(!site.client(None).is_served(address).await);
}

#[tokio::test]
async fn plain_http_is_led_to_tls() {
    let folder = tempdir().unwrap();
    let site = Authority::new(folder.path(), "site");
    let proxy = Proxy::start(Options {
        redirect_port: Some(0),
        redirect_to: Some(8443),
        ..serving(&site.sign("proxy", &["localhost"]))
    })
    .await;
    let mut address = proxy.handle.redirect_address().unwrap();
    address.set_ip([127, 0, 0, 1].into());
    let request = "GET /hub?a=b HTTP/1.1\r\nHost: example.org:80\r\n\r\n";
    let answer = crate::support::raw_exchange(address, request).await;
    assert_eq!(answer.status, 301);
    assert_eq!(
        answer.headers("location"),
        ["https://example.org:8443/hub?a=b"]
    );
    let answer = crate::support::raw_exchange(address, "GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!(answer.status, 400);
}

// === The API ===

#[tokio::test]
async fn the_api_takes_only_clients_with_a_certificate() {
    let folder = tempdir().unwrap();
    let (hub, api) = (
        Authority::new(folder.path(), "hub-ca"),
        Authority::new(folder.path(), "api-ca"),
    );
    let pair = api.sign("api", &["localhost"]);
    let proxy = Proxy::start(Options {
        api_ssl_key: Some(pair.key.clone()),
        api_ssl_cert: Some(pair.certificate.clone()),
        api_ssl_ca: Some(hub.file.clone()),
        api_ssl_request_cert: true,
        api_ssl_reject_unauthorized: true,
        ..Options::default()
    })
    .await;
    let address = proxy.api_address();
    let request = format!(
        "GET /api/routes HTTP/1.1\r\nHost: h\r\nConnection: close\r\nAuthorization: token {TOKEN}\r\n\r\n"
    );
    let client = api.client(Some(&hub.sign("hub", &["localhost"])));
    assert_eq!(client.exchange(address, &request).await.text(), "{}");
    assert!(!api.client(None).is_served(address).await);
    assert!(!api.client(Some(&pair)).is_served(address).await);
}

// === Servers ===

#[tokio::test]
async fn servers_are_checked_and_shown_a_certificate() {
    let folder = tempdir().unwrap();
    let notebooks = Authority::new(folder.path(), "notebooks-ca");
    let other = Authority::new(folder.path(), "other-ca");
    let ours = notebooks.sign("proxy-client", &["localhost"]);
    let by_ip =
        Origin::start_tls(notebooks.asking_server(&notebooks.sign("a", &["127.0.0.1"]))).await;
    let by_name =
        Origin::start_tls(notebooks.asking_server(&notebooks.sign("b", &["localhost"]))).await;
    let strange = Origin::start_tls(other.sign("c", &["127.0.0.1"]).server()).await;
    let options = || Options {
        client_ssl_key: Some(ours.key.clone()),
        client_ssl_cert: Some(ours.certificate.clone()),
        client_ssl_ca: Some(notebooks.file.clone()),
        client_ssl_request_cert: true,
        client_ssl_reject_unauthorized: true,
        ..Options::default()
    };
    let statuses = async |options: Options| {
        let proxy = Proxy::start(options).await;
        let port = by_name.address.rsplit(':').next().unwrap();
        proxy
            .add("/good", &format!("https://{}", by_ip.address))
            .await;
        proxy
            .add("/named", &format!("https://localhost:{port}"))
            .await;
        proxy
            .add("/misnamed", &format!("https://{}", by_name.address))
            .await;
        proxy
            .add("/strange", &format!("https://{}", strange.address))
            .await;
        let mut statuses = Vec::new();
        for path in ["/good/x", "/named/x", "/misnamed/x", "/strange/x"] {
            statuses.push(proxy.get(path).await.status);
        }
        statuses
    };
    assert_eq!(statuses(options()).await, [200, 200, 503, 503]);
    let insecure = Options {
        insecure: true,
        ..options()
    };
    assert_eq!(statuses(insecure).await, [200, 200, 200, 200]);
    // Without our certificate those who ask for it refuse us.
    let anonymous = Options {
        client_ssl_ca: Some(other.file.clone()),
        ..Options::default()
    };
    assert_eq!(statuses(anonymous).await, [503, 503, 503, 200]);
}

#[tokio::test]
async fn a_connection_over_tls_is_used_again() {
    let folder = tempdir().unwrap();
    let site = Authority::new(folder.path(), "site");
    let origin = Origin::start_tls(site.sign("a", &["127.0.0.1"]).server()).await;
    let proxy = Proxy::start(Options {
        default_target: Some(format!("https://{}", origin.address)),
        client_ssl_ca: Some(site.file.clone()),
        ours: OurOptions {
            threads: Some(1),
            ..OurOptions::default()
        },
        ..Options::default()
    })
    .await;
    for _ in 0..5 {
        assert_eq!(proxy.get("/x").await.text(), "GET /x");
    }
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn a_self_signed_certificate_may_be_named_as_its_own_authority() {
    let folder = tempdir().unwrap();
    let pair = Pair::self_signed(folder.path(), "own", "127.0.0.1");
    let origin = Origin::start_tls(pair.server()).await;
    let misnamed = Pair::self_signed(folder.path(), "misnamed", "other.example");
    let elsewhere = Origin::start_tls(misnamed.server()).await;
    let both = folder.path().join("both.crt");
    let pem = |pair: &Pair| fs::read_to_string(&pair.certificate).unwrap();
    fs::write(&both, pem(&pair) + &pem(&misnamed)).unwrap();
    let proxy = Proxy::start(Options {
        client_ssl_ca: Some(both),
        ..Options::default()
    })
    .await;
    proxy
        .add("/own", &format!("https://{}", origin.address))
        .await;
    proxy
        .add("/misnamed", &format!("https://{}", elsewhere.address))
        .await;
    assert_eq!(proxy.get("/own/x").await.status, 200);
    assert_eq!(proxy.get("/misnamed/x").await.status, 503);
}

// === Files ===

#[tokio::test]
async fn a_new_certificate_is_taken_up_and_no_connection_is_dropped() {
    let folder = tempdir().unwrap();
    let site = Authority::new(folder.path(), "site");
    let origin = Origin::start().await;
    let first = site.sign("proxy", &["localhost"]);
    let first_certificate = first.certificate();
    let proxy = Proxy::start(Options {
        default_target: Some(origin.url()),
        ..serving(&first)
    })
    .await;
    let client = site.client(None);
    assert_eq!(
        client.certificate_of(proxy.address()).await,
        first_certificate
    );
    let mut open = Raw::over(client.connect(proxy.address()).await.unwrap());
    let request = "GET /x HTTP/1.1\r\nHost: h\r\n\r\n";
    open.send(request).await;
    open.until("GET /x").await;

    // A key without its certificate: what was read stays.
    let second = site.sign("proxy", &["localhost"]);
    let second_pem = fs::read(&second.certificate).unwrap();
    fs::write(&second.certificate, "half a certif").unwrap();
    proxy.handle.reload_tls();
    assert_eq!(
        client.certificate_of(proxy.address()).await,
        first_certificate
    );

    fs::write(&second.certificate, second_pem).unwrap();
    proxy.handle.reload_tls();
    assert_eq!(
        client.certificate_of(proxy.address()).await,
        second.certificate()
    );
    open.send(request).await;
    open.until("GET /x").await;

    // Nobody tells that these files have changed.
    let third = site.sign("proxy", &["localhost"]).certificate();
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    while client.certificate_of(proxy.address()).await != third {
        assert!(tokio::time::Instant::now() < deadline, "never noticed");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    open.send(request).await;
    open.until("GET /x").await;
    eventually("one connection stayed open", || {
        origin.open_connections() >= 1
    })
    .await;
}

#[tokio::test]
async fn each_name_has_its_certificate_and_each_is_read_again_alone() {
    let folder = tempdir().unwrap();
    let site = Authority::new(folder.path(), "site");
    let client = site.client(None);
    let first = site.sign("first", &["localhost", "*.example.org"]);
    let second = site.sign("second", &["hub.example.org"]);
    let third = site.sign("third", &["other.example.org"]);
    // A file with both, as other servers take it.
    let both = folder.path().join("third.pem");
    let whole = |pair: &Pair| {
        fs::read_to_string(&pair.key).unwrap() + &fs::read_to_string(&pair.certificate).unwrap()
    };
    fs::write(&both, whole(&third)).unwrap();
    let further = |pair: &Pair| format!("{}:{}", pair.certificate.display(), pair.key.display());
    let options = Options {
        ours: OurOptions {
            ssl_sni: vec![further(&second), both.display().to_string()],
            ..OurOptions::default()
        },
        ..serving(&first)
    };
    let proxy = Proxy::start(options.clone()).await;
    let shown = async |name| client.certificate_for(name, proxy.address()).await;
    assert_eq!(shown("hub.example.org").await, second.certificate());
    assert_eq!(shown("HUB.example.org").await, second.certificate());
    assert_eq!(shown("other.example.org").await, third.certificate());
    assert_eq!(shown("ada.example.org").await, first.certificate());
    assert_eq!(shown("localhost").await, first.certificate());

    // One pair that is broken holds no other up, and stays as it was.
    let (old_second, old_third) = (second.certificate(), third.certificate());
    let second = site.sign("second", &["hub.example.org"]);
    fs::write(&both, "half a certif").unwrap();
    proxy.handle.reload_tls();
    assert_ne!(second.certificate(), old_second);
    assert_eq!(shown("hub.example.org").await, second.certificate());
    assert_eq!(shown("other.example.org").await, old_third);

    // At start it is another matter.
    let error = refusal(options).await;
    assert!(error.contains("third.pem"), "{error}");
}

#[tokio::test]
async fn unusable_files_are_refused_at_start() {
    let folder = tempdir().unwrap();
    let site = Authority::new(folder.path(), "site");
    let (one, two) = (
        site.sign("one", &["localhost"]),
        site.sign("two", &["localhost"]),
    );
    let mixed = Pair {
        key: one.key.clone(),
        certificate: two.certificate.clone(),
    };
    assert!(
        refusal(serving(&mixed))
            .await
            .contains("does not belong to")
    );

    let absent = Pair {
        key: folder.path().join("none.key"),
        ..one.clone()
    };
    assert!(refusal(serving(&absent)).await.contains("none.key"));

    let swapped = Pair {
        key: one.certificate.clone(),
        certificate: one.key.clone(),
    };
    assert!(refusal(serving(&swapped)).await.contains("no certificate"));

    let encrypted = folder.path().join("encrypted.key");
    let text = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIG\n-----END ENCRYPTED PRIVATE KEY-----\n";
    fs::write(&encrypted, text).unwrap();
    let encrypted = Pair {
        key: encrypted,
        ..one.clone()
    };
    let error = refusal(serving(&encrypted)).await;
    assert!(
        error.contains("is encrypted") && error.contains("openssl pkey"),
        "{error}"
    );

    let error = refusal(Options {
        client_ssl_ca: Some(one.key.clone()),
        ..Options::default()
    });
    assert!(error.await.contains("no certificate"));
}
