//! What a push sends, and when it sends nothing.

use crate::support::layout::Packing;
use crate::support::registry::{Access, Fault, Registry};
use crate::{Served, assert_whole, host, imrun, pull};

#[test]
fn what_is_pushed_is_pulled_again_byte_for_byte() {
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
fn a_baked_image_is_pushed_as_it_is() {
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
fn what_the_repository_has_is_not_sent() {
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
fn layers_that_nobody_has_compressed_are_refused_and_nothing_is_sent() {
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
fn what_cannot_be_pushed_is_refused() {
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
fn a_push_is_authenticated_and_made_again_where_that_helps() {
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
            "says that it stored",
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
