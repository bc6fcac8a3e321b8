//! Requests and results of a pull.

use crate::support::layout::{self, Layout, Packing, on, program, tar};
use crate::support::registry::{Fault, Registry};
use crate::{Served, assert_whole, host, imrun, pull};
use imrun::image::manifest::Platform;
use std::fs;

#[test]
fn an_image_is_pulled_by_tag_and_by_digest_with_any_compression_of_its_layers() {
    for packing in [Packing::Plain, Packing::Gzip, Packing::Zstd] {
        let host = host!();
        let served = Served::new(&host, packing);
        let pulled = pull(&host, &served.tag()).exits(0).line();
        assert_eq!(pulled, served.digest());
        assert_whole(&host, &pulled);
        let images = host.imrun(["images"]).exits(0).out;
        assert!(images.contains(&served.tag()), "{images}");

        let host = host!();
        assert_eq!(
            pull(&host, &served.pinned()).exits(0).line(),
            served.digest()
        );
        assert_whole(&host, served.digest());
    }
}

#[test]
fn blobs_in_the_store_are_not_requested_again() {
    let host = host!();
    let served = Served::new(&host, Packing::Gzip);
    pull(&host, &served.tag()).exits(0);
    served.registry.forget();
    pull(&host, &served.pinned()).exits(0);
    assert_eq!(served.registry.requests().len(), 0);
    pull(&host, &served.tag()).exits(0);
    assert_eq!(
        served.registry.requests().len(),
        1,
        "only the tag is resolved"
    );
    assert_eq!(served.registry.count("HEAD /v2/app/manifests/1"), 1);
}

#[test]
fn only_a_new_top_layer_is_transferred() {
    let host = host!();
    let served = Served::new(&host, Packing::Gzip);
    pull(&host, &served.tag()).exits(0);
    let newer = served
        .layout
        .publish_image(&[&program(), &tar(&[("a", "2")])], Packing::Gzip);
    served.registry.publish(&served.layout, &newer, "1");
    served.registry.forget();
    let pulled = pull(&host, &served.tag()).exits(0).line();
    assert_eq!(newer["digest"], pulled);
    assert_eq!(
        served.registry.count("GET /v2/app/blobs/"),
        2,
        "the config and the new layer"
    );
    assert_eq!(served.registry.count(&served.layer(0)), 0);
    assert_whole(&host, &pulled);
}

#[test]
fn a_launch_by_name_and_digest_pulls_only_missing_blobs() {
    let host = host!();
    let served = Served::new(&host, Packing::Zstd);
    host.launch_of(&served.pinned())
        .run()
        .exits(0)
        .prints("ran\n");
    served.registry.forget();
    host.launch_of(&served.pinned())
        .run()
        .exits(0)
        .prints("ran\n");
    assert_eq!(
        served.registry.requests().len(),
        0,
        "the digest is in the store"
    );
    fs::remove_file(host.blob(&served.config())).unwrap();
    host.launch_of(&served.pinned())
        .run()
        .exits(0)
        .prints("ran\n");
    assert_eq!(served.registry.requests().len(), 1);
}

#[test]
fn an_image_that_is_in_the_store_runs_without_its_registry() {
    let host = host!();
    let served = Served::new(&host, Packing::Gzip);
    let (tag, pinned, digest) = (served.tag(), served.pinned(), served.digest().to_string());
    pull(&host, &tag).exits(0);
    drop(served);
    host.launch_of(&pinned).run().exits(0).prints("ran\n");
    host.launch_of(&digest).run().exits(0).prints("ran\n");
}

#[test]
fn a_tag_is_never_run_and_the_hint_names_the_digest() {
    let host = host!();
    let served = Served::new(&host, Packing::Gzip);
    host.launch_of(&served.tag())
        .run()
        .refused("is a name")
        .hints(&format!("imrun pull {}", served.tag()));
    assert_eq!(served.registry.requests().len(), 0);
    pull(&host, &served.tag()).exits(0);
    let refused = host.launch_of(&served.tag()).run();
    refused
        .refused("is a name")
        .hints(&format!("{}@{}", served.tag(), served.digest()));
}

#[test]
fn a_damaged_blob_is_refused_by_a_launch_and_fetched_again_by_a_pull() {
    let host = host!();
    let served = Served::new(&host, Packing::Gzip);
    pull(&host, &served.tag()).exits(0);
    for blob in host.blobs() {
        let path = host.blob(&blob);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        host.launch_of(&served.pinned()).run().refused(&blob);
        pull(&host, &served.pinned()).exits(0);
        assert_whole(&host, served.digest());
    }
}

#[test]
fn a_damaged_kept_compressed_layer_is_fetched_again() {
    let host = host!();
    let served = Served::new(&host, Packing::Gzip);
    let keep = |host: &_| imrun(host, &["pull", "--keep-blobs", &served.tag()], &[]).exits(0);
    keep(&host);
    let (layer, path) = (served.layer(0), host.blob(&served.layer(0)));
    fs::remove_file(&path).unwrap();
    fs::write(&path, "damaged").unwrap();
    keep(&host);
    assert_eq!(served.registry.blob(&layer), Some(fs::read(path).unwrap()));
}

#[test]
fn the_platform_is_chosen_from_an_index() {
    let host = host!();
    let registry = Registry::start();
    let layout = Layout::new(host.path("layout"));
    let own = on(
        layout.add_image(&[&program()], Packing::Gzip),
        "linux",
        &Platform::host().architecture,
    );
    let mut config = layout::config(&[&tar(&[("a", "1")])]);
    config["architecture"] = "s390x".into();
    let config = layout.add_json(layout::CONFIG, &config);
    let layer = layout.add_layer(&tar(&[("a", "1")]), Packing::Gzip);
    let other = on(layout.add_manifest(&config, &[layer]), "linux", "s390x");
    let index = layout.add_index(&[other.clone(), own.clone()]);
    registry.publish(&layout, &index, "1");
    let name = registry.name("app:1");
    assert_eq!(own["digest"], pull(&host, &name).exits(0).line());
    host.launch_of(&registry.name(&format!("app@{}", index["digest"].as_str().unwrap())))
        .run()
        .exits(0)
        .prints("ran\n");
    let pulled = imrun(&host, &["pull", "--platform", "linux/s390x", &name], &[])
        .exits(0)
        .line();
    assert_eq!(other["digest"], pulled);
    imrun(&host, &["pull", "--platform", "linux/arm64", &name], &[])
        .refused("has no image for linux/arm64");
}

#[test]
fn a_registry_without_head_or_digests_is_supported() {
    let host = host!();
    let served = Served::new(&host, Packing::Gzip);
    served
        .registry
        .fault("HEAD", Fault::Status(405, Vec::new()), 1);
    assert_eq!(pull(&host, &served.tag()).exits(0).line(), served.digest());
}

#[test]
fn two_pulls_of_one_digest_at_once_both_succeed() {
    let host = host!();
    let served = Served::new(&host, Packing::Gzip);
    // Each pull waits until the other one requests the same layer.
    served.registry.fault(&served.layer(0), Fault::Meet, 2);
    let both: Vec<_> = std::thread::scope(|scope| {
        let pulls = [0, 1].map(|_| {
            let (directory, name) = (host.path("store"), served.pinned());
            scope.spawn(move || {
                let mut command = std::process::Command::new(crate::support::host::IMRUN);
                command
                    .arg("--store")
                    .arg(directory)
                    .args(["pull", &name])
                    .output()
                    .unwrap()
            })
        });
        pulls.map(|pull| pull.join().unwrap()).into()
    });
    for output in both {
        assert_eq!(
            output.stdout,
            format!("{}\n", served.digest()).as_bytes(),
            "{output:?}"
        );
    }
    assert_eq!(served.registry.count(&served.layer(0)), 2);
    assert_whole(&host, served.digest());
}

#[test]
fn an_unknown_name_is_refused() {
    let host = host!();
    let served = Served::new(&host, Packing::Gzip);
    let refused = pull(&host, &served.registry.name("app:2"))
        .refused("the registry answers 404: MANIFEST_UNKNOWN it is not there");
    refused.hints("check the name");
    let nobody = served.registry.authority();
    drop(served);
    pull(&host, &format!("{nobody}/app:1")).refused("Connection refused");
    pull(&host, "App:1").exits(125);
}
