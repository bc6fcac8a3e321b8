//! Sources written by other tools, which `imrun import` reads.

use crate::host;
use crate::support::host::Host;
use crate::support::layout::{self, CONFIG, LAYER, Layout, Packing, gzip, named, on, program, tar};
use imrun::base::digest::Digest;
use imrun::image::manifest::Platform;
use serde_json::{Value, json};
use std::fs;

/// Member of a tar: a file or a link.
enum Member<'a> {
    File(&'a str, Vec<u8>),
    HardLink(&'a str, &'a str),
}

fn archive(members: Vec<Member<'_>>) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for member in members {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        let (name, bytes) = match member {
            Member::File(name, bytes) => (name, bytes),
            Member::HardLink(name, target) => {
                header.set_entry_type(tar::EntryType::Link);
                header.set_link_name(target).unwrap();
                (name, Vec::new())
            }
        };
        header.set_size(bytes.len() as u64);
        // Builder::append_data removes the prefixes that some tools add to a name.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        tar.append(&header, &bytes[..]).unwrap();
    }
    tar.into_inner().unwrap()
}

fn import(host: &Host, transport: &str, bytes: &[u8]) -> crate::support::outcome::Outcome {
    let file = host.write("archive", bytes);
    host.imrun(["import".into(), format!("{transport}:{}", file.display())])
}

fn runs(host: &Host, digest: &str) {
    host.launch_of(digest).run().exits(0).prints("ran\n");
}

/// Such images come from `crane index append`, `crane pull --format oci` and `ko build`.
#[test]
fn an_image_whose_descriptor_has_an_artifact_type_is_imported() {
    let host = host!();
    let layout = Layout::new(host.path("layout"));
    let mut image = layout.add_image(&[&program()], Packing::Gzip);
    image["artifactType"] = json!(CONFIG);
    let digest = image["digest"].as_str().unwrap().to_string();
    let arch = Platform::host().architecture;
    let index = layout.add_index(&[on(image.clone(), "linux", &arch)]);
    for entry in [image, index] {
        layout.publish(&[entry]);
        assert_eq!(host.import(layout.source()), digest);
    }
    runs(&host, &digest);
}

/// Buildpacks and other tools write such configs, and every engine runs these images.
#[test]
fn an_image_whose_config_names_no_platform_is_imported_for_the_requested_one() {
    for member in ["os", "architecture"] {
        let host = host!();
        let layout = Layout::new(host.path("layout"));
        let mut config = layout::config(&[&program()]);
        config[member] = json!("");
        let layer = layout.add_layer(&program(), Packing::Gzip);
        layout.publish(&[layout.add_manifest(&layout.add_json(CONFIG, &config), &[layer])]);
        let imported = host.imrun(["import", &layout.source()]).exits(0);
        let imported = imported.says(&format!("names no platform, its `{member}` is empty"));
        runs(&host, &imported.line());
        let other = ["import", "--platform", "linux/s390x", &layout.source()];
        let outcome = host.imrun(other);
        match member {
            // If one of the two members is present, it is compared.
            "os" => drop(outcome.refused("not for linux/s390x")),
            _ => drop(outcome.exits(0)),
        }
    }
}

/// `cosign save` gives an image and its signature the same name and the type of an image config.
#[test]
fn a_signature_next_to_an_image_is_skipped() {
    let host = host!();
    let layout = Layout::new(host.path("layout"));
    let typed = |mut entry: Value| {
        entry["artifactType"] = json!(CONFIG);
        named(entry, "app")
    };
    let payload = layout.add("application/vnd.dev.cosign.simplesigning.v1+json", b"{}");
    let config = layout.add_json(CONFIG, &layout::config(&[b"{}"]));
    let signature = typed(layout.add_manifest(&config, &[payload]));
    let image = typed(layout.add_image(&[&program()], Packing::Gzip));
    let digest = image["digest"].as_str().unwrap().to_string();
    layout.publish(&[signature.clone(), image]);
    for source in [layout.source(), format!("{}:app", layout.source())] {
        assert_eq!(host.import(source), digest);
    }
    layout.publish(&[signature]);
    host.imrun(["import", &layout.source()])
        .refused("has a type that imrun does not support");
}

#[test]
fn one_of_several_images_is_chosen_by_platform_position_or_digest() {
    let host = host!();
    let layout = Layout::new(host.path("layout"));
    let image = |text: &str| layout.add_image(&[&program(), &tar(&[("a", text)])], Packing::Plain);
    let (one, two) = (image("1"), image("2"));
    let digest = |image: &Value| image["digest"].as_str().unwrap().to_string();
    layout.publish(&[one.clone(), two.clone()]);
    host.imrun(["import", &layout.source()])
        .refused("has several images: @0 (sha256:")
        .hints(":@NUMBER");
    for choice in [":@1".to_string(), format!("@{}", digest(&two))] {
        assert_eq!(host.import(layout.source() + &choice), digest(&two));
    }
    let mut config = layout::config(&[]);
    config["architecture"] = json!("s390x");
    let other = layout.add_manifest(&layout.add_json(CONFIG, &config), &[]);
    layout.publish(&[other, one.clone()]);
    assert_eq!(host.import(layout.source()), digest(&one));
}

#[test]
fn layers_without_bytes_end_blocks_or_padding_are_read() {
    let with_end = tar(&[("a", vec![7; 1100])]);
    let file = with_end.len() - 1024;
    for (what, layer) in [
        ("no bytes", &[][..]),
        ("no end blocks", &with_end[..file]),
        ("half an end block", &with_end[..file + 100]),
        ("no padding", &with_end[..512 + 1100]),
        ("half the padding", &with_end[..512 + 1200]),
    ] {
        for driver in ["erofs", "overlay"] {
            let host = host!();
            let layout = Layout::new(host.path("layout"));
            layout.publish_image(&[&program(), layer], Packing::Gzip);
            let digest = host.import(layout.source());
            host.imrun(["verify"]).exits(0);
            let launch = host.launch_of(&digest).options(["--driver", driver]);
            let sum = launch.app(["/busybox", "sha256sum", "/a"]).run();
            let expected = format!("{}  /a\n", Digest::sha256(&[7; 1100]).hex());
            match layer.len() {
                0 => sum.of(what).exits(1),
                _ => sum.of(what).exits(0).prints(&expected),
            };
        }
    }
}

/// bsdtar writes files with the same inode as hard links.
#[test]
fn a_blob_that_is_a_hard_link_is_read() {
    let host = host!();
    let layout = Layout::new(host.path("layout"));
    let manifest = layout.publish_image(&[&program()], Packing::Gzip);
    let mut members = Vec::new();
    let mut names = Vec::new();
    for entry in fs::read_dir(layout.path().join("blobs/sha256")).unwrap() {
        names.push(entry.unwrap().file_name().into_string().unwrap());
    }
    let paths: Vec<_> = names
        .iter()
        .map(|n| (format!("x/{n}"), format!("blobs/sha256/{n}")))
        .collect();
    for (own, blob) in &paths {
        members.push(Member::File(
            own,
            fs::read(layout.path().join(blob)).unwrap(),
        ));
        members.push(Member::HardLink(blob, own));
    }
    for name in ["oci-layout", "index.json"] {
        members.push(Member::File(
            name,
            fs::read(layout.path().join(name)).unwrap(),
        ));
    }
    let digest = import(&host, "oci-archive", &archive(members))
        .exits(0)
        .line();
    assert_eq!(manifest["digest"], digest);
    runs(&host, &digest);
    let endless = archive(vec![Member::HardLink("oci-layout", "oci-layout")]);
    import(&host, "oci-archive", &endless).refused("is in a loop of links");
}

#[test]
fn a_docker_archive_is_read_with_every_form_of_member_names() {
    let host = host!();
    let config = layout::config(&[&program()]).to_string().into_bytes();
    for prefix in ["", "/", "./"] {
        let layer = format!("{prefix}a/layer.tar");
        let entry = json!([{ "Config": "c.json", "RepoTags": null, "Layers": [layer] }]);
        let bytes = archive(vec![
            Member::File("manifest.json", entry.to_string().into_bytes()),
            Member::File("c.json", config.clone()),
            Member::File(&layer, program()),
        ]);
        let digest = import(&host, "docker-archive", &bytes).exits(0).line();
        runs(&host, &digest);
    }
}

/// Docker 25 saves an image without a tag like this.
#[test]
fn an_archive_with_an_empty_index_is_read_by_its_manifest_json() {
    let host = host!();
    let config = layout::config(&[&program()]).to_string().into_bytes();
    for manifests in [json!(null), json!([])] {
        let entry = json!([{ "Config": "c.json", "RepoTags": null, "Layers": ["layer.tar"] }]);
        let index = json!({ "schemaVersion": 2, "manifests": manifests });
        let bytes = archive(vec![
            Member::File("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
            Member::File("index.json", index.to_string().into_bytes()),
            Member::File("manifest.json", entry.to_string().into_bytes()),
            Member::File("c.json", config.clone()),
            Member::File("layer.tar", program()),
        ]);
        import(&host, "oci-archive", &bytes).exits(0);
        import(&host, "docker-archive", &bytes).exits(0);
    }
}

#[test]
fn an_unsupported_compression_is_named() {
    let host = host!();
    for (name, magic) in [
        ("xz", &b"\xfd7zXZ\0\0\x04\xe6\xd6"[..]),
        ("bzip2", b"BZh91AY&SY"),
        ("lz4", b"\x04\x22\x4d\x18\0\0\0\0\0\0"),
    ] {
        let bytes = [magic, &[1; 2000]].concat();
        for transport in ["oci-archive", "docker-archive", "rootfs"] {
            import(&host, transport, &bytes)
                .refused(&format!("is compressed with {name}"))
                .hints("-dc");
        }
        let config = layout::config(&[&program()]).to_string().into_bytes();
        let entry = json!([{ "Config": "c.json", "RepoTags": null, "Layers": ["layer.tar"] }]);
        let docker = tar(&[
            ("manifest.json", entry.to_string().into_bytes()),
            ("c.json", config),
            ("layer.tar", bytes),
        ]);
        import(&host, "docker-archive", &docker)
            .refused(&format!("layer.tar: is compressed with {name}"));
    }
}

/// Only the digests distinguish a plain tar from a compressed one, so the result is the same if the store
/// already has the layer.
#[test]
fn a_layers_media_type_is_checked_even_if_the_store_has_the_layer() {
    let host = host!();
    let layout = Layout::new(host.path("layout"));
    let publish = |kind: &str, bytes: &[u8]| {
        let layer = layout.add(&format!("{LAYER}{kind}"), bytes);
        let config = layout.add_json(CONFIG, &layout::config(&[&program()]));
        layout.publish(&[layout.add_manifest(&config, &[layer])]);
        host.imrun(["import", &layout.source()])
    };
    let zstd = zstd::encode_all(&program()[..], 1).unwrap();
    for _ in ["without the layer", "with it"] {
        publish("", &gzip(&program())).refused("is a plain tar");
        publish("", &zstd).refused("is a plain tar");
        // skopeo writes `+gzip` for layers that it does not compress: the digest is that of the tar.
        publish("+gzip", &program()).exits(0);
        // The blob's bytes decide between the two compressions.
        publish("+gzip", &zstd).exits(0);
        publish("+zstd", &gzip(&program())).exits(0);
    }
}

#[test]
fn a_root_filesystem_is_an_image_of_one_layer_and_the_same_on_every_host() {
    let (one, two) = (host!(), host!());
    let digest = import(&one, "rootfs", &program()).exits(0).line();
    let zstd = zstd::encode_all(&program()[..], 1).unwrap();
    for packed in [gzip(&program()), zstd] {
        assert_eq!(import(&two, "rootfs", &packed).exits(0).line(), digest);
    }
    let file = fs::File::open(one.write("tar", program())).unwrap();
    let named = one.imrun_reading(["import", "rootfs:-", "--name", "base"], file);
    assert_eq!(named.exits(0).line(), digest);
    one.imrun(["verify"]).exits(0);
    let shown: Value = serde_json::from_str(&one.imrun(["inspect", &digest]).exits(0).out).unwrap();
    assert_eq!(
        shown["config"]["labels"]["dev.imrun.source"],
        "root filesystem"
    );
    assert_eq!(
        shown["layers"][0]["diffId"],
        Digest::sha256(&program()).to_string()
    );
    assert_eq!(shown["platform"], Platform::host().to_string());
    let launch = one.launch_of(&digest).app(["/busybox", "echo", "ran"]);
    launch.run().exits(0).prints("ran\n");
    let other = one.imrun([
        "import",
        "--platform",
        "linux/s390x",
        &format!("rootfs:{}", one.path("tar").display()),
    ]);
    assert_ne!(other.exits(0).line(), digest);
}

/// No digest proves that all data came through the pipe.
#[test]
fn a_root_filesystem_that_ends_early_or_is_something_else_is_refused() {
    let host = host!();
    let whole = program();
    for length in [0, 100, 512, 4096, whole.len() - 1024] {
        import(&host, "rootfs", &whole[..length]).refused("archive");
    }
    import(&host, "rootfs", b"not a tar").refused("is not a tar archive");
    let layout = Layout::new(host.path("layout"));
    layout.publish_image(&[&program()], Packing::Gzip);
    import(&host, "rootfs", &layout.archive())
        .refused("is an archive of images")
        .hints("oci-archive");
    host.imrun([
        "import".into(),
        format!("rootfs:{}", layout.path().display()),
    ])
    .refused("is a directory")
    .hints("tar -C");
    import(&host, "oci-archive", &program()).refused("is not in");
    let file = fs::File::open(host.write("tar", program())).unwrap();
    host.imrun_reading(["import", "-"], file)
        .refused("has neither an index.json")
        .hints("rootfs:");
    assert_eq!(host.blobs().len(), 0);
}

#[test]
fn a_root_filesystem_may_begin_with_any_header_of_a_tar() {
    let host = host!();
    let file = |path: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        header.set_mode(0o644);
        let mut tar = tar::Builder::new(Vec::new());
        tar.append_data(&mut header, path, &b"x"[..]).unwrap();
        tar.into_inner().unwrap()
    };
    let mut pax = tar::Builder::new(Vec::new());
    pax.append_pax_extensions([("comment", &b"first"[..])])
        .unwrap();
    let pax = [&pax.get_ref()[..], &file("a")].concat();
    let mut global = pax.clone();
    global[156] = b'g';
    let sum: u32 = (0..512)
        .map(|at| {
            if (148..156).contains(&at) {
                32
            } else {
                u32::from(global[at])
            }
        })
        .sum();
    global[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    for (name, tar) in [
        ("pax", pax),
        ("global", global),
        ("long", file(&("long/".repeat(40) + "a"))),
    ] {
        let path = host.write(name, tar);
        host.import(format!("rootfs:{}", path.display()));
    }
    let path = host.write("garbage", vec![b'x'; 2048]);
    host.imrun(["import", &format!("rootfs:{}", path.display())])
        .refused("is not a tar archive");
}
