//! Credentials, and the servers that receive them.

use crate::support::layout::Packing;
use crate::support::outcome::Outcome;
use crate::support::registry::{Access, Fault, Registry};
use crate::support::server::Server;
use crate::{Served, assert_whole, host, imrun, pull};
use serde_json::json;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};

/// The Authorization header of user:secret.
const BASIC: &str = "Basic dXNlcjpzZWNyZXQ=";

/// Writes a file of credentials for the registry, for `REGISTRY_AUTH_FILE`.
fn auth_file(host: &crate::support::host::Host, served: &Served) -> String {
    let auths = json!({ "auths": { served.registry.authority(): { "auth": "dXNlcjpzZWNyZXQ=" } } });
    host.write("auth.json", auths.to_string())
        .display()
        .to_string()
}

/// Pulls with a file of credentials.
fn pull_with(host: &crate::support::host::Host, served: &Served, file: &str) -> Outcome {
    imrun(
        host,
        &["pull", &served.tag()],
        &[("REGISTRY_AUTH_FILE", file)],
    )
}

#[test]
fn basic_credentials_are_sent_only_after_a_challenge() {
    let host = host!();
    let served = Served::new(&host, Packing::Gzip);
    served.registry.access(Access::Basic(BASIC.into()));
    pull(&host, &served.tag())
        .refused("requires credentials, but none were found")
        .hints("podman login");
    let file = auth_file(&host, &served);
    pull_with(&host, &served, &file).exits(0);
    assert_whole(&host, served.digest());
    let first = &served.registry.requests()[0];
    assert_eq!(first.header("authorization"), None);
    served.registry.access(Access::Basic("Basic other".into()));
    let refused = pull_with(&host, &served, &file);
    let refused = refused.refused("answers 401");
    assert!(
        !refused.err.contains("secret") && !refused.err.contains("dXNlc"),
        "{refused:?}"
    );
}

#[test]
fn the_files_of_docker_and_podman_are_found() {
    for file in [".docker/config.json", ".config/containers/auth.json"] {
        let host = host!();
        let served = Served::new(&host, Packing::Gzip);
        served.registry.access(Access::Basic(BASIC.into()));
        let auths = std::fs::read(auth_file(&host, &served)).unwrap();
        host.write(&format!("home/{file}"), auths);
        pull(&host, &served.tag()).of(file).exits(0);
    }
}

#[test]
fn a_credential_helper_is_asked() {
    let host = host!();
    let served = Served::new(&host, Packing::Gzip);
    served.registry.access(Access::Basic(BASIC.into()));
    let helper = host.write(
        "bin/docker-credential-test",
        format!("#!/bin/sh\nread server\n[ \"$1 $server\" = 'get {}' ] && echo '{{\"Username\":\"user\",\"Secret\":\"secret\"}}'\n", served.registry.authority()),
    );
    std::fs::set_permissions(&helper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!(
        "{}:{}",
        host.path("bin").display(),
        std::env::var("PATH").unwrap()
    );
    for config in [
        json!({ "credsStore": "test" }),
        json!({ "credHelpers": { served.registry.authority(): "test" } }),
    ] {
        let file = host
            .write("auth.json", config.to_string())
            .display()
            .to_string();
        imrun(
            &host,
            &["pull", &served.tag()],
            &[("REGISTRY_AUTH_FILE", &file), ("PATH", &path)],
        )
        .exits(0);
    }
    let file = host
        .write("auth.json", r#"{"credsStore":"none-such"}"#)
        .display()
        .to_string();
    pull_with(&host, &served, &file).refused("credential helper");
}

#[test]
fn a_token_is_fetched_once_and_again_when_it_expires_during_a_pull() {
    let host = host!();
    let served = Served::new(&host, Packing::Gzip);
    served.registry.access(Access::Bearer(None));
    pull(&host, &served.tag()).exits(0);
    assert_eq!(
        served
            .registry
            .count("/token?scope=repository%3Aapp%3Apull&service=test"),
        1
    );

    let other = host!();
    let layer = served.layer(0);
    let half = served.registry.blob(&layer).unwrap().len() / 2;
    served.registry.forget();
    served
        .registry
        .fault(&format!("GET /v2/app/blobs/{layer}"), Fault::Cut(half), 1);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while served.registry.count(&layer) == 0 {
                std::thread::yield_now();
            }
            served.registry.expire();
        });
        pull(&other, &served.tag()).exits(0);
    });
    assert_eq!(served.registry.count("/token"), 2);
    assert_whole(&other, served.digest());
}

#[test]
fn the_token_server_receives_the_credentials_and_the_registry_only_the_token() {
    let host = host!();
    let served = Served::new(&host, Packing::Gzip);
    served.registry.access(Access::Bearer(Some(BASIC.into())));
    pull(&host, &served.tag())
        .refused("token for")
        .hints("podman login");
    served.registry.forget();
    let file = auth_file(&host, &served);
    pull_with(&host, &served, &file).exits(0);
    for request in served.registry.requests() {
        let basic = request
            .header("authorization")
            .is_some_and(|value| value.starts_with("Basic"));
        assert_eq!(basic, request.target.starts_with("/token"), "{request:?}");
    }
}

#[test]
fn an_identity_token_is_exchanged_by_post() {
    let host = host!();
    let served = Served::new(&host, Packing::Gzip);
    served.registry.access(Access::Bearer(None));
    let auths = json!({ "auths": { served.registry.authority(): { "identitytoken": "refresh" } } });
    let file = host
        .write("auth.json", auths.to_string())
        .display()
        .to_string();
    pull_with(&host, &served, &file).exits(0);
    assert_eq!(served.registry.count("POST /token"), 1);
}

#[test]
fn a_redirect_never_carries_credentials_to_another_server() {
    let host = host!();
    let served = Served::new(&host, Packing::Gzip);
    let elsewhere = Registry::start();
    elsewhere.publish(&served.layout, &served.manifest, "1");
    let file = auth_file(&host, &served);
    for (access, status) in [
        (Access::Basic(BASIC.into()), 301),
        (Access::Basic(BASIC.into()), 302),
        (Access::Basic(BASIC.into()), 303),
        (Access::Bearer(Some(BASIC.into())), 307),
        (Access::Bearer(Some(BASIC.into())), 308),
    ] {
        let host = host!();
        served.registry.access(access);
        let path = format!("/v2/app/blobs/{}", served.layer(0));
        let target = format!("http://{}{path}", elsewhere.authority());
        served.registry.fault(
            &format!("GET {path}"),
            Fault::Status(401, vec![("www-authenticate", "Basic realm=x".into())]),
            0,
        );
        served.registry.heal();
        served.registry.fault(
            &format!("GET {path}"),
            Fault::Status(status, vec![("location", target)]),
            usize::MAX,
        );
        elsewhere.forget();
        pull_with(&host, &served, &file)
            .of(&status.to_string())
            .exits(0);
        served.registry.heal();
        let asked = elsewhere.requests();
        assert_eq!(asked.len(), 1);
        assert_eq!(asked[0].header("authorization"), None, "{asked:?}");
        assert_whole(&host, served.digest());
    }
}

/// Starts a proxy that connects every client to this registry.
fn proxy_to(registry: &Registry, seen: &Arc<Mutex<Vec<String>>>) -> Server {
    let (target, seen) = (registry.authority(), Arc::clone(seen));
    Server::start(([127, 0, 0, 1], 0).into(), move |client| {
        let mut lines = BufReader::new(client.try_clone().unwrap()).lines();
        let Some(Ok(request)) = lines.next() else {
            return;
        };
        seen.lock().unwrap().push(request);
        lines.find(|line| line.as_ref().is_ok_and(String::is_empty));
        let server = TcpStream::connect(&target).unwrap();
        let pipe = |mut from: TcpStream, mut to: TcpStream| {
            // Either side may close its connection.
            let _ended = std::io::copy(&mut from, &mut to);
            let _closed = to.shutdown(Shutdown::Both);
        };
        (&client).write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        let (back, forth) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        let other = std::thread::spawn(move || pipe(back, forth));
        pipe(client, server);
        other.join().unwrap();
    })
}

#[test]
fn a_proxy_of_the_environment_is_used_except_for_this_machine() {
    let host = host!();
    let served = Served::new(&host, Packing::Gzip);
    let seen = Arc::default();
    let proxy = proxy_to(&served.registry, &seen);
    let url = format!("http://user:secret@{}", proxy.address());
    let args = ["pull", "--plain-http", "registry.invalid/app:1"];
    imrun(&host, &args, &[("HTTP_PROXY", &url)]).exits(0);
    assert_whole(&host, served.digest());
    assert_eq!(
        seen.lock().unwrap()[0],
        "CONNECT registry.invalid:80 HTTP/1.1"
    );
    let other = host!();
    let around = [("HTTP_PROXY", &url[..]), ("NO_PROXY", "invalid")];
    imrun(&other, &args, &around).refused("registry.invalid");
    let connections = seen.lock().unwrap().len();
    imrun(&other, &["pull", &served.tag()], &[("ALL_PROXY", &url)]).exits(0);
    assert_eq!(seen.lock().unwrap().len(), connections);
    let wrong = imrun(&host!(), &args, &[("HTTP_PROXY", "gopher://user:secret@x")]);
    let wrong = wrong.refused("HTTP_PROXY: is not the URL of a proxy");
    assert!(!wrong.err.contains("secret"), "{wrong:?}");
}

#[test]
fn an_unsupported_challenge_is_refused() {
    let host = host!();
    let served = Served::new(&host, Packing::Gzip);
    for (challenge, error) in [
        ("Negotiate", "neither basic nor bearer"),
        ("Bearer realm=\"", "neither basic nor bearer"),
        ("Bearer service=x", "names no token server"),
        ("Bearer realm=\"ftp://x/\"", "names no token server"),
        (
            "Bearer realm=\"http://token.invalid/\"",
            "token server http://token.invalid/ has no TLS",
        ),
    ] {
        served.registry.fault(
            "HEAD",
            Fault::Status(401, vec![("www-authenticate", challenge.into())]),
            1,
        );
        pull(&host, &served.tag()).of(challenge).refused(error);
        served.registry.heal();
    }
}

#[test]
fn connections_without_tls_are_made_only_to_loopback_or_with_plain_http() {
    let host = host!();
    let served = Served::new(&host, Packing::Gzip);
    let port = served
        .registry
        .authority()
        .split_once(':')
        .unwrap()
        .1
        .to_string();
    // An address of this machine that is not a loopback address.
    let name = format!("0.0.0.0:{port}/app:1");
    imrun(&host, &["pull", "--timeout", "5s", &name], &[]).exits(125);
    assert_eq!(served.registry.requests().len(), 0);
    imrun(&host, &["pull", "--plain-http", &name], &[]).exits(0);
}

#[test]
fn basic_authentication_is_tried_if_a_token_does_not_suffice() {
    let file_of = |host: &_, served: &_| auth_file(host, served);
    // The registry requires a password after a token, or offers one next to a failing token server.
    for beside in [false, true] {
        let host = host!();
        let served = Served::new(&host, Packing::Gzip);
        let file = file_of(&host, &served);
        served.registry.access(Access::Basic(BASIC.into()));
        let token_server = format!("http://{}/token", served.registry.authority());
        let mut challenge = format!("Bearer realm=\"{token_server}\",service=\"test\"");
        if beside {
            challenge += ", Basic realm=\"test\"";
            served
                .registry
                .fault("/token", Fault::Status(404, Vec::new()), 1);
        }
        let refusal = Fault::Status(401, vec![("www-authenticate", challenge)]);
        served.registry.fault("HEAD", refusal, 1);
        pull_with(&host, &served, &file)
            .of(&beside.to_string())
            .exits(0);
        assert_eq!(served.registry.count("/token"), 1);
        assert_whole(&host, served.digest());
    }
}

#[test]
fn errors_name_the_token_server_and_show_its_explanation() {
    let host = host!();
    let served = Served::new(&host, Packing::Gzip);
    let at = format!("token server http://{}/token", served.registry.authority());
    served.registry.access(Access::Bearer(None));
    let words = br#"{"details":"your account is locked"}"#.to_vec();
    for (fault, error) in [
        (
            Fault::Body(401, "application/json", words),
            "answers 401: your account is locked",
        ),
        (
            Fault::Body(200, "text/html", b"<html>".to_vec()),
            "sends an answer that is not strict JSON",
        ),
        (
            Fault::Body(200, "application/json", b"{}".to_vec()),
            "answers without a token",
        ),
    ] {
        served.registry.fault("/token", fault, usize::MAX);
        pull(&host, &served.tag()).refused(&format!("{at} {error}"));
        served.registry.heal();
    }
    let elsewhere = vec![(
        "location",
        format!("http://{}/token", served.registry.authority()),
    )];
    served
        .registry
        .fault("/token?", Fault::Status(307, elsewhere), 1);
    pull(&host, &served.tag()).exits(0);
}

#[test]
fn a_refused_head_is_followed_by_a_get_for_the_registrys_explanation() {
    for status in [400, 401, 403, 404, 405, 406, 501] {
        let host = host!();
        let served = Served::new(&host, Packing::Gzip);
        let challenge = vec![("www-authenticate", "Basic realm=x".to_string())];
        let file = auth_file(&host, &served);
        served
            .registry
            .fault("HEAD", Fault::Status(status, challenge), usize::MAX);
        pull_with(&host, &served, &file)
            .of(&status.to_string())
            .exits(0);
        assert_whole(&host, served.digest());
        let words = br#"{"errors":[{"code":"DENIED","message":"ask the owner"}]}"#;
        let other = host!();
        let denied = Fault::Body(403, "application/json", words.to_vec());
        served
            .registry
            .fault("GET /v2/app/manifests", denied, usize::MAX);
        pull_with(&other, &served, &file).refused("answers 403: DENIED ask the owner");
    }
}
