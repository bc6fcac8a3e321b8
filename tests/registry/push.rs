//! Requests of a push, and pushes that send nothing.

use crate::support::layout::Packing;
use crate::support::registry::{Access, Fault, Registry};
use crate::{Served, assert_whole, host, imrun, pull};

#[test]
fn a_pushed_image_is_pulled_again_byte_for_byte() {
    for packing in [Packing::Plain, Packing::Gzip] {
        let host = host!();
        let served = Served::new(&host, packing);
        host.imrun(["import", "--keep-blobs", &served.layout.source()])
            .exits(0);
        let registry = Registry::start();
        let pushed = imrun(
            &host,
            &["push", served.digest(), &registry.name("team/app:2")],
            &[],
        )
        .exits(0);
        assert_eq!(pushed.line(), served.digest());
        assert_eq!(registry.manifest("2"), served.registry.manifest("1"));
        let other = host!();
        assert_eq!(
            pull(&other, &registry.name("team/app:2")).exits(0).line(),
            served.digest()
        );
        assert_whole(&other, served.digest());
    }
}

#[test]
fn a_baked_image_is_pushed_unchanged() {
    let host = host!();
    let registry = Registry::start();
    let baked = host.busybox().to_string();
    imrun(&host, &["push", &baked, &registry.name("app")], &[]).exits(0);
    let other = host!();
    assert_eq!(
        pull(&other, &registry.name("app:latest")).exits(0).line(),
        baked
    );
    other
        .launch_of(&baked)
        .script("echo ran")
        .run()
        .exits(0)
        .prints("ran\n");
}

#[test]
fn blobs_in_the_repository_are_not_sent() {
    let host = host!();
    let served = Served::new(&host, Packing::Gzip);
    pull(&host, &served.tag()).exits(0);
    imrun(
        &host,
        &["push", served.digest(), &served.registry.name("app:2")],
        &[],
    )
    .exits(0);
    assert_eq!(served.registry.count("POST"), 0);
    assert_eq!(served.registry.manifest("2"), served.registry.manifest("1"));
}

#[test]
fn missing_compressed_layers_are_refused_and_nothing_is_sent() {
    let host = host!();
    let served = Served::new(&host, Packing::Gzip);
    pull(&host, &served.tag()).exits(0);
    let registry = Registry::start();
    let refused = imrun(
        &host,
        &["push", served.digest(), &registry.name("app:2")],
        &[],
    );
    refused.refused(&served.layer(0)).hints("--keep-blobs");
    assert_eq!(registry.count("POST") + registry.count("PUT"), 0);
}

#[test]
fn unknown_images_digests_as_target_and_damaged_images_are_refused() {
    let host = host!();
    let served = Served::new(&host, Packing::Plain);
    let registry = Registry::start();
    let name = registry.name("app:1");
    imrun(&host, &["push", served.digest(), &name], &[]).refused("is not in the store");
    pull(&host, &served.tag()).exits(0);
    let pinned = registry.name(&format!("app@{}", served.digest()));
    imrun(&host, &["push", served.digest(), &pinned], &[]).refused("not a digest");
    let path = host.blob(&served.layer(0));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[1000] ^= 1;
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, bytes).unwrap();
    imrun(&host, &["push", served.digest(), &name], &[]).refused("its bytes hash to");
    assert_eq!(registry.count("POST") + registry.count("PUT"), 0);
}

#[test]
fn a_push_is_authenticated_and_retried() {
    let host = host!();
    let served = Served::new(&host, Packing::Plain);
    pull(&host, &served.tag()).exits(0);
    let registry = Registry::start();
    registry.access(Access::Bearer(None));
    registry.fault(
        "PUT /v2/app/blobs/uploads/",
        Fault::Status(503, Vec::new()),
        1,
    );
    registry.fault(
        "POST /v2/app/blobs/uploads/",
        Fault::Status(429, vec![("retry-after", "0".into())]),
        1,
    );
    imrun(
        &host,
        &["push", served.digest(), &registry.name("app:1")],
        &[],
    )
    .exits(0);
    assert_eq!(registry.manifest("1"), served.registry.manifest("1"));
    for (line, fault, error) in [
        (
            "PUT /v2/app/manifests/3",
            Fault::Header("docker-content-digest", "sha256:00".into()),
            "reports that it stored",
        ),
        (
            "PUT /v2/app/manifests/3",
            Fault::Status(405, Vec::new()),
            "answers 405",
        ),
    ] {
        registry.fault(line, fault, 1);
        imrun(
            &host,
            &["push", served.digest(), &registry.name("app:3")],
            &[],
        )
        .refused(error);
    }
}

#[test]
fn any_status_of_success_completes_a_push() {
    for status in [200, 202, 204] {
        let host = host!();
        let served = Served::new(&host, Packing::Plain);
        pull(&host, &served.tag()).exits(0);
        let registry = Registry::start();
        let name = registry.name("app:1");
        for line in ["PUT /v2/app/blobs/uploads/", "PUT /v2/app/manifests/1"] {
            registry.fault(line, Fault::Status(status, Vec::new()), usize::MAX);
        }
        let pushed = imrun(&host, &["push", served.digest(), &name], &[]);
        assert_eq!(
            pushed.of(&status.to_string()).exits(0).line(),
            served.digest()
        );
        assert_eq!(registry.manifest("1"), served.registry.manifest("1"));
    }
}

#[test]
fn a_push_continues_if_head_is_refused() {
    for status in [403, 405] {
        let host = host!();
        let served = Served::new(&host, Packing::Plain);
        pull(&host, &served.tag()).exits(0);
        let registry = Registry::start();
        registry.fault("HEAD", Fault::Status(status, Vec::new()), usize::MAX);
        imrun(
            &host,
            &["push", served.digest(), &registry.name("app:1")],
            &[],
        )
        .exits(0);
        assert_eq!(registry.manifest("1"), served.registry.manifest("1"));
    }
}

#[test]
fn an_upload_goes_to_any_http_location_and_others_are_refused() {
    let host = host!();
    let served = Served::new(&host, Packing::Plain);
    pull(&host, &served.tag()).exits(0);
    let mut number = 0;
    let mut push_to = |location: String| {
        let registry = Registry::start();
        let location = location.replace("HOST", &registry.authority());
        let fault = Fault::Header("location", location);
        registry.fault("POST", fault, usize::MAX);
        number += 1;
        let name = registry.name(&format!("app:{number}"));
        imrun(&host, &["push", served.digest(), &name], &[])
    };
    for right in [
        "/v2/app/blobs/uploads/1",
        "1?_state=a%2Fb%3D",
        "../uploads/1?x=",
        "http://HOST/v2/app/blobs/uploads/1?",
        "HTTP://HOST/v2/app/blobs/uploads/1?state=a|b",
        "//HOST/v2/app/blobs/uploads/1#part",
    ] {
        push_to(right.into()).of(right).exits(0);
    }
    for (wrong, error) in [
        ("", "wants the upload at nowhere: no Location"),
        (
            "ftp://x.example/a?key=secret",
            "wants the upload at \"ftp://x.example/a\", which is not an HTTP URL",
        ),
        (
            "http://u:secret@x.example/a",
            "wants the upload at \"http://x.example/a\"",
        ),
        (
            "http://x.example/a?key=secret",
            "wants the upload at \"http://x.example/a\", without TLS",
        ),
        (
            "https://127.0.0.1:1/a?key=secret",
            "https://127.0.0.1:1/a (named by the registry): Connection refused",
        ),
    ] {
        let refused = push_to(wrong.into()).of(wrong).refused(error);
        assert!(!refused.err.contains("secret"), "{refused:?}");
    }
}
