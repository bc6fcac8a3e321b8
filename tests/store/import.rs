//! Sources that `imrun import` accepts, and the contents of the store afterwards.

use crate::host;
use crate::support::host::Host;
use crate::support::layout::{self, CONFIG, Layout, MANIFEST, Packing, named, on, program, tar};
use imrun::base::digest::{Algorithm, Digest};
use imrun::image::manifest::Platform;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::process::{Command, Stdio};

const ALL: [Packing; 3] = [Packing::Plain, Packing::Gzip, Packing::Zstd];

/// Checks that the image verifies and runs.
fn assert_whole(host: &Host, digest: &str) {
    let verified = host.imrun(["verify"]).exits(0);
    assert!(
        verified.out.contains(&format!("{digest}  ok\n")),
        "{verified:?}"
    );
    host.launch_of(digest).run().exits(0).prints("ran\n");
}

fn layout(host: &Host, packing: Packing) -> (Layout, Value) {
    let layout = Layout::new(host.path("layout"));
    let manifest = layout.publish_image(&[&program(), &tar(&[("a", "1")])], packing);
    (layout, manifest)
}

/// Returns a `docker save` archive of one image.
fn docker_archive(pack: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let (layer, top) = (program(), tar(&[("a", "1")]));
    let config = layout::config(&[&layer, &top]).to_string();
    let entry = json!([{ "Config": "config.json", "RepoTags": ["app:1"], "Layers": ["0/layer.tar", "1/layer.tar"] }]);
    tar(&[
        ("manifest.json", entry.to_string().into_bytes()),
        ("config.json", config.into_bytes()),
        ("0/layer.tar", pack(&layer)),
        ("1/layer.tar", pack(&top)),
    ])
}

#[test]
fn a_layout_is_imported_with_any_compression_of_its_layers() {
    for packing in ALL {
        let host = host!();
        let (layout, manifest) = layout(&host, packing);
        let digest = host.import(layout.source());
        assert_eq!(manifest["digest"], digest);
        let layers =
            [program(), tar(&[("a", "1")])].map(|layer| Digest::sha256(&layer).to_string());
        assert!(
            layers.iter().all(|layer| host.blobs().contains(layer)),
            "the tars are stored uncompressed"
        );
        assert_eq!(host.blobs().len(), 4, "manifest, config and two tars");
        assert_whole(&host, &digest);
    }
}

#[test]
fn the_compressed_layers_are_kept_on_request() {
    let host = host!();
    let (layout, manifest) = layout(&host, Packing::Gzip);
    host.imrun(["import", "--keep-blobs", &layout.source()])
        .exits(0);
    assert_eq!(host.blobs().len(), 6);
    assert_whole(&host, manifest["digest"].as_str().unwrap());
    host.import(layout.source());
    assert_eq!(host.blobs().len(), 6, "the kept layers remain");
}

#[test]
fn the_image_for_this_host_is_chosen_from_an_index_even_a_nested_one() {
    let host = host!();
    let layout = Layout::new(host.path("layout"));
    let arch = Platform::host().architecture;
    let own = on(
        layout.add_image(&[&program()], Packing::Gzip),
        "linux",
        &arch,
    );
    let other = on(
        layout.add_image(&[&tar(&[("a", "1")])], Packing::Gzip),
        "linux",
        "s390x",
    );
    let inner = layout.add_index(&[other.clone(), own.clone()]);
    let outer = layout.add_index(&[on(inner.clone(), "linux", &arch)]);
    for index in [&inner, &outer] {
        layout.publish(std::slice::from_ref(index));
        let digest = host.import(layout.source());
        assert_eq!(own["digest"], digest);
        assert_whole(&host, &digest);
        // On this host, the index also identifies the image.
        let index = index["digest"].as_str().unwrap();
        host.launch_of(index).run().exits(0).prints("ran\n");
        host.imrun(["verify", index]).exits(0);
    }
    assert!(!host.blobs().contains(other["digest"].as_str().unwrap()));
}

#[test]
fn an_image_for_another_platform_can_be_kept_but_not_launched() {
    let host = host!();
    let layout = Layout::new(host.path("layout"));
    let mut config = layout::config(&[&program()]);
    config["architecture"] = json!("s390x");
    let config = layout.add_json(CONFIG, &config);
    let layer = layout.add_layer(&program(), Packing::Plain);
    let manifest = layout.add_manifest(&config, &[layer]);
    layout.publish(&[on(manifest.clone(), "linux", "s390x")]);
    let digest = host
        .imrun(["import", "--platform", "linux/s390x", &layout.source()])
        .exits(0)
        .line();
    assert_eq!(manifest["digest"], digest);
    host.imrun(["verify"]).exits(0);
    host.imrun(["inspect", &digest]).exits(0);
    host.imrun(["gc"]).exits(0).prints("0\n");
    host.launch_of(&digest)
        .run()
        .refused("is an image for linux/s390x")
        .because("unsupported");
}

#[test]
fn dockers_media_types_are_accepted() {
    let host = host!();
    let layout = Layout::new(host.path("layout"));
    let docker = |name: &str| format!("application/vnd.docker.{name}");
    let layer = layout.add(
        &docker("image.rootfs.diff.tar.gzip"),
        &layout::gzip(&program()),
    );
    let config = layout.add_json(
        &docker("container.image.v1+json"),
        &layout::config(&[&program()]),
    );
    let mut manifest = layout::manifest(&config, &[layer]);
    manifest["mediaType"] = json!(docker("distribution.manifest.v2+json"));
    let manifest = layout.add_json(&docker("distribution.manifest.v2+json"), &manifest);
    let entry = on(manifest.clone(), "linux", &Platform::host().architecture);
    let mut list = layout::index(&[entry]);
    list["mediaType"] = json!(docker("distribution.manifest.list.v2+json"));
    layout.publish(&[layout.add_json(&docker("distribution.manifest.list.v2+json"), &list)]);
    let digest = host.import(layout.source());
    assert_eq!(manifest["digest"], digest);
    assert_whole(&host, &digest);
}

#[test]
fn archives_are_read_from_files_and_standard_input_compressed_or_not() {
    let host = host!();
    let (layout, manifest) = layout(&host, Packing::Gzip);
    let oci = layout.archive();
    let docker = docker_archive(<[u8]>::to_vec);
    let mut docker_digests = BTreeSet::new();
    for (transport, archive) in [("oci", oci), ("docker", docker)] {
        for bytes in [
            archive.clone(),
            layout::gzip(&archive),
            zstd::encode_all(&archive[..], 1).unwrap(),
        ] {
            let host = host!();
            let file = host.write("archive", bytes);
            let digest = host.import(format!("{transport}-archive:{}", file.display()));
            assert_whole(&host, &digest);
            let piped = host
                .imrun_reading(["import", "-"], File::open(&file).unwrap())
                .exits(0)
                .line();
            assert_eq!(piped, digest, "{transport}");
            match transport {
                "oci" => assert_eq!(manifest["digest"], digest),
                _ => drop(docker_digests.insert(digest)),
            }
        }
    }
    assert_eq!(
        docker_digests.len(),
        1,
        "the same image has the same digest"
    );
}

#[test]
fn an_archive_is_also_read_from_a_pipe() {
    let host = host!();
    let (layout, manifest) = layout(&host, Packing::Zstd);
    let archive = layout.archive();
    let (read, write) = std::io::pipe().unwrap();
    let writer = std::thread::spawn(move || std::io::Write::write_all(&mut { write }, &archive));
    let digest = host.imrun_reading(["import", "-"], read).exits(0).line();
    writer.join().unwrap().unwrap();
    assert_eq!(manifest["digest"], digest);
}

#[test]
fn input_that_is_not_an_archive_is_refused_even_if_endless() {
    let host = host!();
    let device = host.imrun(["import", "oci-archive:/dev/zero"]);
    device
        .refused("/dev/zero")
        .says("is neither a file nor a pipe");
    let directory = format!("docker-archive:{}", host.path("").display());
    let directory = host.imrun(["import", &directory]);
    directory.refused("is neither a file nor a pipe");
    let endless = |program: &str, argument: &str| {
        let mut source = Command::new(program)
            .arg(argument)
            .stdout(Stdio::piped())
            .spawn();
        let source = source.as_mut().unwrap();
        let refused = host.imrun_reading(["import", "-"], source.stdout.take().unwrap());
        refused
            .refused("standard input")
            .says("is not a tar archive");
        source.kill().unwrap();
        source.wait().unwrap();
    };
    endless("cat", "/dev/zero");
    endless("yes", "x");
}

#[test]
fn each_layer_of_a_docker_archive_may_be_compressed() {
    let host = host!();
    let archive = host.write("archive", docker_archive(layout::gzip));
    let digest = host.import(format!("docker-archive:{}", archive.display()));
    assert_whole(&host, &digest);
    let tagged = host.import(format!("docker-archive:{}:app:1", archive.display()));
    assert_eq!(tagged, digest);
}

#[test]
fn a_ref_chooses_one_image_of_several() {
    let host = host!();
    let layout = Layout::new(host.path("layout"));
    let one = layout.add_image(&[&tar(&[("a", "1")])], Packing::Plain);
    let two = layout.add_image(&[&tar(&[("a", "2")])], Packing::Plain);
    layout.publish(&[
        named(one.clone(), "v1"),
        named(two.clone(), "v2"),
        named(two.clone(), "latest"),
    ]);
    for (name, image) in [("v1", &one), ("v2", &two), ("latest", &two)] {
        assert_eq!(
            image["digest"],
            host.import(format!("{}:{name}", layout.source()))
        );
    }
    let archive = host.write("archive", layout.archive());
    assert_eq!(
        one["digest"],
        host.import(format!("oci-archive:{}:v1", archive.display()))
    );
}

#[test]
fn attestations_are_skipped() {
    let host = host!();
    let layout = Layout::new(host.path("layout"));
    let image = layout.add_image(&[&program()], Packing::Plain);
    let statement = layout.add("application/vnd.in-toto+json", b"{}");
    let config = layout.add_json(CONFIG, &layout::config(&[b"{}"]));
    let attestation = layout.add_manifest(&config, &[statement]);
    let mut attestation = on(attestation, "unknown", "unknown");
    attestation["annotations"] = json!({ "vnd.docker.reference.type": "attestation-manifest" });
    let entry = on(image.clone(), "linux", &Platform::host().architecture);
    for entries in [[attestation.clone(), entry.clone()], [entry, attestation]] {
        layout.publish(&[layout.add_index(&entries)]);
        assert_eq!(image["digest"], host.import(layout.source()));
        layout.publish(&entries);
        assert_eq!(image["digest"], host.import(layout.source()));
    }
}

#[test]
fn sha512_digests_are_supported() {
    let host = host!();
    let layout = Layout::new(host.path("layout"));
    let sha512 = Algorithm::Sha512;
    let layer = layout.add_hashed(
        sha512,
        &format!("{}+gzip", layout::LAYER),
        &layout::gzip(&program()),
    );
    let mut config = layout::config(&[&program()]);
    config["rootfs"]["diff_ids"] = json!([Digest::of(sha512, &program())]);
    let config = layout.add_hashed(sha512, CONFIG, config.to_string().as_bytes());
    let manifest = layout::manifest(&config, &[layer]).to_string();
    let manifest = layout.add_hashed(sha512, MANIFEST, manifest.as_bytes());
    layout.publish(std::slice::from_ref(&manifest));
    let digest = host.import(layout.source());
    assert_eq!(manifest["digest"], digest);
    assert!(host.blobs().iter().all(|blob| blob.starts_with("sha512:")));
    assert_whole(&host, &digest);
}

#[test]
fn a_gzip_layer_of_several_members_is_one_stream() {
    let host = host!();
    let layout = Layout::new(host.path("layout"));
    let tar = program();
    let (head, tail) = tar.split_at(tar.len() / 3);
    let packed = [layout::gzip(head), layout::gzip(tail)].concat();
    let layer = layout.add(&format!("{}+gzip", layout::LAYER), &packed);
    let config = layout.add_json(CONFIG, &layout::config(&[&tar]));
    layout.publish(&[layout.add_manifest(&config, &[layer])]);
    assert_whole(&host, &host.import(layout.source()));
}

#[test]
fn an_image_may_have_the_same_layer_twice() {
    let host = host!();
    let layout = Layout::new(host.path("layout"));
    let (layer, top) = (program(), tar(&[("busybox", "shadowed")]));
    let manifest = layout.publish_image(&[&layer, &top, &layer], Packing::Gzip);
    let digest = host.import(layout.source());
    assert_eq!(manifest["digest"], digest);
    assert_eq!(host.blobs().len(), 4, "manifest, config and two tars");
    assert_whole(&host, &digest);
}

#[test]
fn images_that_share_a_layer_store_it_once() {
    let host = host!();
    let layout = Layout::new(host.path("layout"));
    let base = program();
    let tops = [tar(&[("a", "1")]), tar(&[("a", "2")])];
    let digests = tops.each_ref().map(|top| {
        layout.publish_image(&[&base, top], Packing::Gzip);
        host.import(layout.source())
    });
    assert_eq!(
        host.blobs().len(),
        2 * 3 + 1,
        "manifest, config and top of each, and one base"
    );
    digests
        .iter()
        .for_each(|digest| assert_whole(&host, digest));
}

#[test]
fn importing_again_changes_nothing_and_prints_the_same_digest() {
    let host = host!();
    let (layout, _) = layout(&host, Packing::Gzip);
    let digest = host.import(layout.source());
    let stored = |host: &Host| {
        let paths = host.blobs().into_iter().map(|blob| host.blob(&blob));
        let inode = |path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
        (
            paths.map(inode).collect::<Vec<_>>(),
            fs::read(host.path("store/refs.log")).unwrap(),
        )
    };
    let before = stored(&host);
    assert_eq!(host.import(layout.source()), digest);
    assert_eq!(stored(&host), before);
}

#[test]
fn names_are_listed_and_a_new_image_takes_over_the_name() {
    let host = host!();
    let layout = Layout::new(host.path("layout"));
    let import = |text: &str| {
        layout.publish_image(&[&tar(&[("a", text)])], Packing::Plain);
        host.imrun(["import", &layout.source(), "--name", "app"])
            .exits(0)
            .line()
    };
    let listed = || -> Value {
        serde_json::from_str(&host.imrun(["images", "--json"]).exits(0).out).unwrap()
    };
    let first = import("1");
    assert_eq!(
        (&listed()[0]["name"], &listed()[0]["digest"]),
        (&json!("app"), &json!(first))
    );
    let second = import("2");
    assert_eq!(listed()[0]["digest"], second);
    assert_eq!(listed().as_array().unwrap().len(), 1);
    assert!(host.imrun(["images"]).exits(0).out.contains(&second));
    let log = fs::read_to_string(host.path("store/refs.log")).unwrap();
    assert_eq!(
        log.lines().filter(|line| line.contains("\tapp\t")).count(),
        2,
        "the old image stays in the name's history"
    );
}

#[test]
fn a_link_within_the_layout_is_followed() {
    let host = host!();
    let (layout, manifest) = layout(&host, Packing::Plain);
    let blob = layout.blob(&manifest);
    fs::rename(&blob, layout.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink("../../elsewhere", &blob).unwrap();
    assert_whole(&host, &host.import(layout.source()));
}
