//! Wrong answers of a registry: each gives one clear line and leaves nothing in the store.

use crate::support::layout::{Packing, on};
use crate::support::registry::Fault;
use crate::{Served, assert_empty, assert_whole, host, imrun, pull};
use imrun::image::manifest::Platform;

/// Returns the part of a request line that asks for the object.
fn target(served: &Served, what: &str) -> String {
    match what {
        "manifest" => format!("GET /v2/app/manifests/{}", served.digest()),
        "config" => format!("GET /v2/app/blobs/{}", served.config()),
        _ => format!("GET /v2/app/blobs/{}", served.layer(1)),
    }
}

#[test]
fn every_wrong_document_or_layer_is_refused_and_leaves_nothing() {
    let page = Fault::Body(
        200,
        "text/html; charset=utf-8",
        b"<html>welcome</html>".to_vec(),
    );
    let json_page = Fault::Body(200, "application/json", b"<html>welcome</html>".to_vec());
    let other = Fault::Body(200, "application/octet-stream", b"{}".to_vec());
    let longer = Fault::Longer(Some(b"more".to_vec()));
    let status = |status| Fault::Status(status, Vec::new());
    for (what, fault, error) in [
        ("manifest", Fault::Garbage, "its bytes hash to"),
        ("manifest", other.clone(), "its bytes hash to"),
        ("manifest", page.clone(), "sends a web page"),
        ("manifest", json_page.clone(), "its bytes hash to"),
        (
            "manifest",
            Fault::Longer(None),
            "sends more than 4194304 bytes",
        ),
        ("manifest", longer.clone(), "its bytes hash to"),
        (
            "manifest",
            Fault::Header("content-length", "9".into()),
            "its bytes hash to",
        ),
        (
            "manifest",
            Fault::Header("content-length", "x".into()),
            "does not answer in HTTP/1.1",
        ),
        ("manifest", Fault::Noise, "does not answer in HTTP/1.1"),
        ("manifest", status(403), "the registry answers 403"),
        ("manifest", status(204), "the registry answers 204"),
        ("config", Fault::Garbage, "its bytes hash to"),
        (
            "config",
            other.clone(),
            "has 2 bytes, but its descriptor says",
        ),
        ("config", page.clone(), "sends a web page"),
        ("config", Fault::Longer(None), "sends more than"),
        ("config", longer.clone(), "sends more than"),
        ("layer", Fault::Garbage, "its bytes hash to"),
        ("layer", other, "has 2 bytes, but its descriptor says"),
        ("layer", page, "sends a web page"),
        ("layer", json_page, "has 20 bytes, but its descriptor says"),
        (
            "layer",
            Fault::Longer(None),
            "bytes that its descriptor says",
        ),
        ("layer", longer, "bytes that its descriptor says"),
        (
            "layer",
            Fault::Header("content-length", "9".into()),
            "has 9 bytes, but its descriptor says",
        ),
        (
            "layer",
            Fault::Header("content-length", "999999".into()),
            "has 999999 bytes, but its descriptor says",
        ),
        ("layer", status(404), "the registry answers 404"),
        ("layer", status(206), "the registry answers 206"),
    ] {
        let host = host!();
        let served = Served::new(&host, Packing::Gzip);
        served
            .registry
            .fault(&target(&served, what), fault.clone(), usize::MAX);
        let refused = pull(&host, &served.tag())
            .of(&format!("{what}: {fault:?}"))
            .refused(error);
        assert!(
            refused.err.contains("sha256:") || refused.err.contains("app:1"),
            "{refused:?}"
        );
        if !matches!(&fault, Fault::Status(..)) {
            assert_empty(&host);
        }
        served.registry.heal();
        pull(&host, &served.tag()).exits(0);
        assert_whole(&host, served.digest());
    }
}

#[test]
fn the_digest_of_a_tag_is_computed_from_its_bytes_whatever_the_registry_announces() {
    let host = host!();
    let served = Served::new(&host, Packing::Gzip);
    let other = served.layer(0);
    for (method, promised, error) in [
        ("HEAD", other.clone(), "answers 404"),
        ("HEAD", "sha256:00".into(), "sha256 has 64 hex digits"),
        (
            "HEAD",
            "md5:d41d8cd98f00b204e9800998ecf8427e".into(),
            "neither sha256 nor sha512",
        ),
        ("GET", other, "its bytes hash to"),
    ] {
        if method == "GET" {
            served
                .registry
                .fault("HEAD", Fault::Status(404, Vec::new()), 1);
        }
        let line = format!("{method} /v2/app/manifests/1");
        served
            .registry
            .fault(&line, Fault::Header("docker-content-digest", promised), 1);
        pull(&host, &served.tag()).of(method).refused(error);
        assert_empty(&host);
        served.registry.heal();
    }
}

#[test]
fn an_index_for_a_manifest_and_the_reverse_are_refused() {
    let host = host!();
    let served = Served::new(&host, Packing::Gzip);
    let own = on(
        served.manifest.clone(),
        "linux",
        &Platform::host().architecture,
    );
    let inner = served.layout.add_index(std::slice::from_ref(&own));
    let mut as_manifest = on(inner, "linux", &Platform::host().architecture);
    as_manifest["mediaType"] = own["mediaType"].clone();
    let mut as_index = own;
    as_index["mediaType"] = crate::support::layout::INDEX.into();
    for wrong in [as_manifest, as_index] {
        let outer = served.layout.add_index(&[wrong]);
        served.registry.publish(&served.layout, &outer, "2");
        pull(&host, &served.registry.name("app:2")).refused(", expected ");
        assert_empty(&host);
    }
}

#[test]
fn redirects_are_limited_and_never_leave_http() {
    let host = host!();
    let served = Served::new(&host, Packing::Gzip);
    let line = target(&served, "layer");
    let to = |location: &str| Fault::Status(307, vec![("location", location.to_string())]);
    for (location, error) in [
        (
            line["GET ".len()..].to_string(),
            "redirects more than 5 times",
        ),
        ("file:///etc/passwd".into(), "which is not an HTTP URL"),
        (
            "http://user:secret@127.0.0.1/".into(),
            "which is not an HTTP URL",
        ),
        (
            "http://registry.invalid/".into(),
            "redirects to \"http://registry.invalid/\", without TLS",
        ),
    ] {
        served.registry.fault(&line, to(&location), usize::MAX);
        let refused = pull(&host, &served.tag()).refused(error);
        assert!(!refused.err.contains("secret"), "{refused:?}");
        assert_empty(&host);
        served.registry.heal();
    }
    assert_eq!(served.registry.count(&line), 6 + 3);
    served
        .registry
        .fault(&line, Fault::Status(302, Vec::new()), usize::MAX);
    pull(&host, &served.tag()).refused("redirects to nowhere: no Location");
    assert_empty(&host);
}

#[test]
fn a_transfer_that_is_too_slow_is_given_up() {
    let host = host!();
    let served = Served::new(&host, Packing::Gzip);
    let drip = || Fault::Drip(std::time::Duration::from_millis(20));
    for what in ["manifest", "config", "layer"] {
        served
            .registry
            .fault(&target(&served, what), drip(), usize::MAX);
        let args = ["pull", "--timeout", "500ms", &served.tag()];
        imrun(&host, &args, &[])
            .of(what)
            .refused("the registry sends too slowly");
        served.registry.heal();
    }
    served
        .registry
        .fault(&target(&served, "layer"), drip(), usize::MAX);
    let late = imrun(&host, &["pull", "--deadline", "500ms", &served.tag()], &[]);
    late.refused("did not finish within 0.5 s")
        .hints("--deadline");
}

#[test]
fn right_bytes_are_accepted_with_any_media_type() {
    for label in [
        crate::support::layout::INDEX,
        "text/html; charset=utf-8",
        "TEXT/HTML",
        "text/plain",
        "application/pdf",
        "x",
    ] {
        let host = host!();
        let served = Served::new(&host, Packing::Gzip);
        for what in ["manifest", "config", "layer"] {
            let fault = Fault::Header("content-type", label.into());
            served
                .registry
                .fault(&target(&served, what), fault, usize::MAX);
        }
        pull(&host, &served.tag()).of(label).exits(0);
        assert_whole(&host, served.digest());
        let pinned = host!();
        pull(&pinned, &served.pinned()).of(label).exits(0);
        let asked = served.registry.requests();
        let plain = |request: &crate::support::registry::Request| {
            request.header("accept-encoding") == Some("identity")
        };
        assert!(asked.iter().all(plain), "a proxy may compress the answer");
    }
}
