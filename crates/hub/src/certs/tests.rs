use std::os::unix::fs::PermissionsExt as _;

use chrono::{NaiveDate, TimeDelta};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;

fn now() -> NaiveDateTime {
    let day = NaiveDate::from_ymd_opt(2026, 11, 21).expect("a day");
    day.and_hms_opt(12, 0, 0).expect("a time")
}

fn config(folder: &Path) -> Config {
    let mut config = Config::with_defaults();
    config.hub.internal_ssl = true;
    config.hub.internal_certs_location = folder.join("internal-ssl").display().to_string();
    config
}

fn open(config: &Config) -> InternalCertificates {
    InternalCertificates::open(config, "hub.example.org", now()).expect("certificates")
}

fn ada() -> UserName {
    UserName::parse("ada").expect("a name")
}

fn mode(path: &Path) -> u32 {
    let data = std::fs::metadata(path).expect("it is there");
    data.permissions().mode() & 0o777
}

#[test]
fn a_folder_is_made_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path());
    let first = open(&config);
    assert_eq!(mode(first.folder()), 0o700);
    assert_eq!(mode(&first.hub.key), 0o600);
    let read = |pair: &Pair| std::fs::read(&pair.certificate).expect("a certificate");
    let (hub, record) = (read(&first.hub), first.folder().join("certipy.json"));
    let written = std::fs::read(&record).expect("a record");
    let again = open(&config);
    assert_eq!(read(&again.hub), hub);
    assert_eq!(std::fs::read(&record).expect("a record"), written);
    let validity = files::validity(&again.hub.certificate).expect("a certificate");
    for name in ["localhost", "127.0.0.1", "::1", "hub.example.org"] {
        assert!(validity.names.iter().any(|other| other == name), "{name}");
    }
    assert!(validity.from <= now() && validity.until > now() + TimeDelta::days(1800));
}

#[test]
fn what_no_longer_fits_is_made_anew() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = config(folder.path());
    let read = |pair: &Pair| std::fs::read(&pair.certificate).expect("a certificate");
    let (first, authority) = {
        let made = open(&config);
        let authority = made.folder().join("hub-ca/hub-ca.crt");
        (read(&made.hub), std::fs::read(authority).expect("one"))
    };
    config.hub.trusted_alt_names = vec!["DNS:other.example.org".to_owned()];
    let named = open(&config);
    let second = read(&named.hub);
    assert_ne!(second, first, "a name was missing");
    let later = now() + TimeDelta::days(5 * 365 - 20);
    let renewed = InternalCertificates::open(&config, "hub.example.org", later);
    assert_ne!(
        read(&renewed.expect("certificates").hub),
        second,
        "it was about to end"
    );
    let kept = std::fs::read(named.folder().join("hub-ca/hub-ca.crt"));
    assert_eq!(kept.expect("one"), authority, "servers trust it");

    config.hub.recreate_internal_certs = true;
    let recreated = open(&config);
    let replaced = std::fs::read(recreated.folder().join("hub-ca/hub-ca.crt"));
    assert_ne!(replaced.expect("one"), authority);

    let other = folder.path().join("other");
    std::fs::create_dir(&other).expect("a folder");
    std::fs::write(other.join("thesis.tex"), "years of work").expect("a file");
    config.hub.internal_certs_location = other.display().to_string();
    let refused = InternalCertificates::open(&config, "hub", now());
    assert!(refused.is_err() && other.join("thesis.tex").exists());
}

#[test]
fn each_server_has_its_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let made = open(&config(folder.path()));
    let lab = ServerName::parse("lab").expect("a name");
    let one = made.for_server(&ada(), &ServerName::default_server(), now());
    let other = made.for_server(&ada(), &lab, now());
    let (one, other) = (one.expect("one"), other.expect("another"));
    assert_ne!(one.files.key, other.files.key);
    assert!(!one.key.matches(other.key.expose()));
    assert_eq!(mode(&one.files.key), 0o600);
    let kept = std::fs::read_to_string(&one.files.certificate).expect("a certificate");
    assert_eq!(kept, one.certificate);
    assert_eq!(file_name("a/../b c"), "a%2F..%2Fb%20c");
}

#[test]
fn bad_names_and_authorities_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let refusal = |change: &dyn Fn(&mut Config)| {
        let mut config = config(folder.path());
        change(&mut config);
        let opened = InternalCertificates::open(&config, "hub", now());
        opened.err().expect("a refusal").to_string()
    };
    let error = refusal(&|config| config.hub.trusted_alt_names = vec!["hub.example.org".into()]);
    assert!(error.contains("write DNS:hub.example.org"), "{error}");
    let external = |name: &str, files: Value| {
        let name = name.to_owned();
        move |config: &mut Config| {
            let entry = (name.clone(), files.clone());
            config.hub.external_ssl_authorities = [entry].into();
        }
    };
    let error = refusal(&external("my-ca", serde_json::json!({})));
    assert!(error.contains("there is no authority \"my-ca\""), "{error}");
    let error = refusal(&external("notebooks-ca", serde_json::json!({"key": "/k"})));
    assert!(error.contains("notebooks-ca has no 'cert'"), "{error}");
}

#[test]
fn an_authority_of_the_sites_own_signs() {
    let folder = tempfile::tempdir().expect("a folder");
    let issued = Authority::create("our-notebooks", Today(now())).expect("an authority");
    let (key, certificate) = (folder.path().join("our.key"), folder.path().join("our.crt"));
    files::write_pair(&key, &certificate, &issued).expect("files");
    let mut config = config(folder.path());
    config.hub.external_ssl_authorities = [(
        "notebooks-ca".to_owned(),
        serde_json::json!({ "cert": certificate, "key": key }),
    )]
    .into();
    let made = open(&config);
    let bundle = std::fs::read_to_string(&made.hub.trust).expect("a bundle");
    assert!(bundle.contains(issued.certificate.trim()));
    made.for_server(&ada(), &ServerName::default_server(), now())
        .expect("a certificate");
}

#[tokio::test]
async fn the_hub_and_a_server_know_each_other_and_strangers_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let made = open(&config(folder.path()));
    let hub = InternalTls::new(&made.hub).expect("TLS");
    let server = made
        .for_server(&ada(), &ServerName::default_server(), now())
        .expect("a certificate");
    let server = InternalTls::new(&Pair {
        key: server.files.key,
        certificate: server.files.certificate,
        trust: server.files.authorities,
    })
    .expect("TLS");
    assert!(meets(&hub, &server).await);
    assert!(meets(&server, &hub).await);
    // Nor can a server be taken for the proxy's API.
    let mut asking_proxy = hub.clone();
    asking_proxy.client = made.proxy_api_client().expect("TLS");
    let proxy = made.proxy.as_ref().expect("our own proxy");
    let proxy = InternalTls::new(&proxy.api).expect("TLS");
    assert!(meets(&asking_proxy, &proxy).await);
    assert!(!meets(&asking_proxy, &server).await);
    // Servers have no business with each other: they do not trust their own authority.
    assert!(!meets(&server, &server).await);
    let elsewhere = tempfile::tempdir().expect("a folder");
    let stranger = open(&config(elsewhere.path()));
    let stranger = InternalTls::new(&stranger.hub).expect("TLS");
    assert!(!meets(&stranger, &hub).await);
}

/// Whether one may ask the other.
async fn meets(from: &InternalTls, to: &InternalTls) -> bool {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let acceptor = TlsAcceptor::from(Arc::clone(&to.server));
    let answering = tokio::spawn(async move {
        let mut stream = acceptor.accept(far).await?;
        stream.write_all(b"welcome").await?;
        stream.shutdown().await
    });
    let asking = async {
        let name = "localhost".try_into().expect("a name");
        let connector = TlsConnector::from(Arc::clone(&from.client));
        let mut stream = connector.connect(name, near).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer == b"welcome")
    };
    let met = asking.await.unwrap_or(false);
    let _ = answering.await;
    met
}

#[test]
fn the_public_certificate_is_checked() {
    let folder = tempfile::tempdir().expect("a folder");
    let made = open(&config(folder.path()));
    let mut options = JupyterHub::clone(&Config::with_defaults().hub);
    let check =
        |options: &JupyterHub| check_public(options, now()).map_err(|error| error.to_string());
    options.ssl_cert = made.hub.certificate.display().to_string();
    options.ssl_key = made.hub.key.display().to_string();
    assert_eq!(check(&options), Ok(()));
    // An expired one is only complained of.
    assert!(check_public(&options, now() + TimeDelta::days(4000)).is_ok());
    let proxy = made.proxy.expect("ours");
    options.ssl_key = proxy.api.key.display().to_string();
    let error = check(&options).unwrap_err();
    assert!(error.contains("does not belong to"), "{error}");
    options.ssl_key = folder.path().join("none").display().to_string();
    let error = check(&options).unwrap_err();
    assert!(error.contains("none: No such file"), "{error}");
    let locked = folder.path().join("locked");
    std::fs::write(&locked, "-----BEGIN ENCRYPTED PRIVATE KEY-----\n").expect("a file");
    options.ssl_key = locked.display().to_string();
    let error = check(&options).unwrap_err();
    assert!(error.contains("openssl pkey"), "{error}");
}
