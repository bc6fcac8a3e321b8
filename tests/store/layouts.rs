//! Layouts that are wrong in one place: each is refused, and says why; the store stays as it was.

use crate::host;
use crate::support::host::Host;
use crate::support::layout::{
    self, CONFIG, INDEX, LAYER, Layout, MANIFEST, Packing, gzip, named, on, tar,
};
use crate::support::outcome::Outcome;
use imrun::digest::Digest;
use imrun::manifest::Platform;
use nix::sys::stat::{Mode, SFlag, mknod};
use serde_json::{Value, json};
use std::fs;
use std::net::TcpListener;
use std::path::Path;

/// What can be wrong, and what the refusal says of it.
type Fault<'a> = (&'a str, &'a dyn Fn(&Layout), &'a str);

fn small() -> Vec<u8> {
    tar(&[("etc/a", "1")])
}

/// Imports what `build` makes of an empty layout, beside an image that is right.
fn import(build: impl Fn(&Layout)) -> Option<Outcome> {
    let host = match Host::new() {
        Ok(host) => host,
        Err(why) => {
            crate::support::host::skip(why);
            return None;
        }
    };
    let good = Layout::new(host.path("good"));
    good.publish_image(&[&tar(&[("good", "1")])], Packing::Gzip);
    host.import(good.source());
    let before = (host.blobs(), fs::read(host.path("store/refs.log")).unwrap());
    let layout = Layout::new(host.path("layout"));
    build(&layout);
    let outcome = host.imrun(["import", &layout.source()]);
    if outcome.code == 125 {
        host.imrun(["verify"]).exits(0);
        assert_eq!(before.1, fs::read(host.path("store/refs.log")).unwrap());
        // Whole layers may be there by now; nothing needs them.
        host.imrun(["gc"]).exits(0);
        assert_eq!(host.blobs(), before.0);
    }
    Some(outcome)
}

fn refuse(faults: &[Fault<'_>]) {
    for (name, build, text) in faults {
        let Some(outcome) = import(build) else { return };
        let outcome = outcome.exits(125).prints("");
        println!("{name}: {}", outcome.err);
        outcome.says(text);
    }
}

fn publish(layout: &Layout, manifest: Value) {
    layout.publish(&[manifest]);
}

/// Publishes an image of the small layer whose parts are changed on the way.
fn changed(
    layout: &Layout,
    packing: Packing,
    layer: impl Fn(&mut Value),
    config: impl Fn(&mut Value),
    manifest: impl Fn(&mut Value),
) {
    let mut own_layer = layout.add_layer(&small(), packing);
    layer(&mut own_layer);
    let mut own_config = layout::config(&[&small()]);
    config(&mut own_config);
    let mut own_manifest = layout::manifest(&layout.add_json(CONFIG, &own_config), &[own_layer]);
    manifest(&mut own_manifest);
    publish(layout, layout.add_json(MANIFEST, &own_manifest));
}

fn keep(_: &mut Value) {}

fn with_layer(layout: &Layout, layer: impl Fn(&mut Value)) {
    changed(layout, Packing::Gzip, layer, keep, keep);
}

fn with_config(layout: &Layout, config: impl Fn(&mut Value)) {
    changed(layout, Packing::Gzip, keep, config, keep);
}

fn with_manifest(layout: &Layout, manifest: impl Fn(&mut Value)) {
    changed(layout, Packing::Gzip, keep, keep, manifest);
}

/// Publishes a good image, and then changes one of its blobs.
fn damage(layout: &Layout, packing: Packing, part: &str, change: impl Fn(&Path)) {
    let layer = layout.add_layer(&small(), packing);
    let config = layout.add_json(CONFIG, &layout::config(&[&small()]));
    let manifest = layout.add_manifest(&config, std::slice::from_ref(&layer));
    let index = layout.add_index(&[on(
        manifest.clone(),
        "linux",
        &Platform::host().architecture,
    )]);
    publish(layout, index.clone());
    let descriptor = match part {
        "layer" => layer,
        "config" => config,
        "manifest" => manifest,
        _ => index,
    };
    change(&layout.blob(&descriptor));
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn truncate(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
}

fn grow(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, [&bytes[..], b" "].concat()).unwrap();
}

#[test]
fn a_good_layout_is_taken_by_these_very_tests() {
    let builds: [&dyn Fn(&Layout); 2] = [&|layout| with_layer(layout, keep), &|layout| {
        damage(layout, Packing::Zstd, "layer", |_| {})
    }];
    for build in builds {
        if let Some(outcome) = import(build) {
            outcome.exits(0);
        }
    }
}

#[test]
fn a_blob_that_is_truncated_too_long_or_has_other_bytes_is_named() {
    for packing in [Packing::Plain, Packing::Gzip, Packing::Zstd] {
        refuse(&[
            (
                "short",
                &|l| damage(l, packing, "layer", truncate),
                "bytes long, its descriptor says",
            ),
            (
                "long",
                &|l| damage(l, packing, "layer", grow),
                "bytes long, its descriptor says",
            ),
            (
                "flipped",
                &|l| damage(l, packing, "layer", flip),
                "layer sha256:",
            ),
        ]);
    }
    for part in ["config", "manifest", "index"] {
        let named = if part == "index" { "manifest" } else { part };
        let name = format!("imrun: {named} sha256:");
        refuse(&[
            (
                "short",
                &|l| damage(l, Packing::Gzip, part, truncate),
                &name,
            ),
            ("long", &|l| damage(l, Packing::Gzip, part, grow), &name),
            ("flipped", &|l| damage(l, Packing::Gzip, part, flip), &name),
            (
                "flipped",
                &|l| damage(l, Packing::Gzip, part, flip),
                "its bytes hash to sha256:",
            ),
        ]);
    }
}

#[test]
fn a_blob_that_is_no_file_is_refused_and_nobody_waits_for_it() {
    for part in ["layer", "config", "manifest", "index"] {
        let replace = |layout: &Layout, make: &dyn Fn(&Path)| {
            damage(layout, Packing::Gzip, part, |path| {
                fs::remove_file(path).unwrap();
                make(path);
            });
        };
        let null = nix::sys::stat::makedev(1, 3);
        let device = |path: &Path| mknod(path, SFlag::S_IFCHR, Mode::S_IRUSR, null).unwrap();
        refuse(&[
            (
                "fifo",
                &|l| replace(l, &|p| nix::unistd::mkfifo(p, Mode::S_IRUSR).unwrap()),
                "is not a regular file",
            ),
            (
                "directory",
                &|l| replace(l, &|p| fs::create_dir(p).unwrap()),
                "is not a regular file",
            ),
            ("device", &|l| replace(l, &device), "is not a regular file"),
            (
                "link",
                &|l| {
                    replace(l, &|p| {
                        std::os::unix::fs::symlink("/etc/passwd", p).unwrap()
                    })
                },
                "leads out",
            ),
            (
                "climbing",
                &|l| replace(l, &|p| std::os::unix::fs::symlink("../../../x", p).unwrap()),
                "leads out",
            ),
            (
                "loop",
                &|l| {
                    replace(l, &|p| {
                        std::os::unix::fs::symlink(p.file_name().unwrap(), p).unwrap()
                    })
                },
                "symbolic links",
            ),
            ("missing", &|l| replace(l, &|_| {}), "No such file"),
        ]);
    }
}

#[test]
fn a_directory_that_is_no_layout_is_refused() {
    let file = |name: &'static str, text: Option<&'static str>| {
        move |layout: &Layout| {
            with_layer(layout, keep);
            let path = layout.path().join(name);
            text.map_or_else(|| fs::remove_file(&path), |text| fs::write(&path, text))
                .unwrap();
        }
    };
    refuse(&[
        (
            "no oci-layout",
            &file("oci-layout", None),
            "oci-layout: No such file",
        ),
        (
            "no index",
            &file("index.json", None),
            "index.json: No such file",
        ),
        (
            "other version",
            &file("oci-layout", Some(r#"{"imageLayoutVersion":"2.0.0"}"#)),
            "version \"2.0.0\"",
        ),
        (
            "no version",
            &file("oci-layout", Some("{}")),
            "imageLayoutVersion",
        ),
        ("no JSON", &file("oci-layout", Some("1.0.0")), "oci-layout"),
        (
            "an empty index",
            &file("index.json", Some("")),
            "index.json",
        ),
        (
            "half an index",
            &file("index.json", Some("{\"schemaVersion\":2,")),
            "index.json",
        ),
        (
            "no entries",
            &file("index.json", Some("{\"schemaVersion\":2,\"manifests\":[]}")),
            "has no image",
        ),
    ]);
}

#[test]
fn a_ref_that_is_missing_or_names_two_images_is_refused() {
    let host = host!();
    let layout = Layout::new(host.path("layout"));
    let one = layout.add_image(&[&small()], Packing::Plain);
    let two = layout.add_image(&[&tar(&[("a", "2")])], Packing::Plain);
    let import =
        |reference: &str| host.imrun(["import", &format!("{}{reference}", layout.source())]);
    layout.publish(&[named(one.clone(), "v1"), named(two.clone(), "v2")]);
    import(":v3").refused("has no ref \"v3\", only v1, v2");
    import("")
        .refused("has several images: v1, v2")
        .hints(":REF");
    layout.publish(&[named(one.clone(), "v1"), named(two, "v1")]);
    import(":v1").refused("\"v1\" names two different manifests");
    layout.publish(&[named(one.clone(), "v1"), named(one, "v1")]);
    import(":v1").exits(0);
}

#[test]
fn an_index_that_leads_nowhere_or_too_deep_is_refused() {
    let arch = Platform::host().architecture;
    let here = |descriptor| on(descriptor, "linux", &arch);
    let image = |layout: &Layout| layout.add_image(&[&small()], Packing::Plain);
    let nested = |layout: &Layout, depth: usize| {
        let deeper = |inner, _| here(layout.add_index(&[inner]));
        publish(layout, (0..depth).fold(here(image(layout)), deeper));
    };
    if let Some(outcome) = import(|layout| nested(layout, 4)) {
        outcome.exits(0);
    }
    let other = |layout: &Layout| {
        publish(
            layout,
            layout.add_index(&[on(image(layout), "linux", "s390x")]),
        )
    };
    let attestation = |layout: &Layout| {
        publish(
            layout,
            layout.add_index(&[on(image(layout), "unknown", "unknown")]),
        );
    };
    refuse(&[
        (
            "deep",
            &|l| nested(l, 5),
            "leads through more than 4 indexes",
        ),
        (
            "deeper",
            &|l| nested(l, 50),
            "leads through more than 4 indexes",
        ),
        ("other platform", &other, "has no image for linux/"),
        (
            "attestations alone",
            &attestation,
            "has no image for linux/",
        ),
    ]);
}

#[test]
fn a_foreign_layer_is_never_fetched() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}/layer", listener.local_addr().unwrap());
    let foreign = |layout: &Layout| {
        let blob = layout.add_layer(&small(), Packing::Gzip);
        fs::remove_file(layout.blob(&blob)).unwrap();
        with_layer(layout, |layer| {
            layer["mediaType"] =
                json!("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip");
            layer["digest"] = json!(Digest::sha256(b"elsewhere"));
            layer["urls"] = json!([url]);
        });
    };
    refuse(&[("foreign", &foreign, "No such file")]);
    let error = listener.accept().unwrap_err();
    assert_eq!(
        error.kind(),
        std::io::ErrorKind::WouldBlock,
        "somebody came for the layer"
    );
}

#[test]
fn what_is_no_image_for_this_host_is_refused_each_with_its_own_words() {
    let artifact = |l: &Layout| {
        let config = l.add("application/vnd.oci.empty.v1+json", b"{}");
        let mut manifest = layout::manifest(&config, &[]);
        manifest["artifactType"] = json!("application/vnd.example.sbom");
        publish(l, l.add_json(MANIFEST, &manifest));
    };
    let schema_1 = |l: &Layout| {
        let manifest = json!({ "schemaVersion": 1, "fsLayers": [], "signatures": [] });
        publish(l, l.add_json(MANIFEST, &manifest));
    };
    refuse(&[
        (
            "artifact",
            &artifact,
            "is an artifact (application/vnd.example.sbom)",
        ),
        (
            "windows",
            &|l| with_config(l, |c| c["os"] = json!("windows")),
            "runs linux images only",
        ),
        (
            "other",
            &|l| with_config(l, |c| c["architecture"] = json!("s390x")),
            "is an image for linux/s390x",
        ),
        (
            "no platform",
            &|l| with_config(l, |c| drop(c.as_object_mut().unwrap().remove("os"))),
            "os",
        ),
        ("schema 1", &schema_1, "schema 1"),
        (
            "encrypted",
            &|l| {
                with_layer(l, |d| {
                    d["mediaType"] = json!(format!("{LAYER}+gzip+encrypted"))
                })
            },
            "encrypted",
        ),
        (
            "unknown",
            &|l| with_layer(l, |d| d["mediaType"] = json!("text/plain")),
            "text/plain",
        ),
    ]);
}

#[test]
fn sizes_and_digests_that_are_none_are_refused() {
    let size = |size: Value| move |l: &Layout| with_layer(l, |d| d["size"] = size.clone());
    let digest = |make: &'static dyn Fn(&str) -> String| {
        move |l: &Layout| {
            with_layer(l, |d| {
                d["digest"] = json!(make(d["digest"].as_str().unwrap()))
            })
        }
    };
    refuse(&[
        ("smaller", &size(json!(1)), "its descriptor says 1"),
        (
            "larger",
            &size(json!(1_u64 << 40)),
            "its descriptor says 1099511627776",
        ),
        ("negative", &size(json!(-1)), "size"),
        ("fractional", &size(json!(1.5)), "size"),
        ("text", &size(json!("12")), "size"),
        ("null", &size(Value::Null), "size"),
        (
            "upper case",
            &digest(&|text| text.to_uppercase().replace("SHA", "sha")),
            "digest",
        ),
        (
            "short",
            &digest(&|text| text[..text.len() - 1].into()),
            "64 hex digits",
        ),
        (
            "md5",
            &digest(&|_| "md5:d41d8cd98f00b204e9800998ecf8427e".into()),
            "neither sha256 nor sha512",
        ),
        (
            "climbing",
            &digest(&|_| "sha256:../../../../etc/passwd".into()),
            "64 hex digits",
        ),
    ]);
}

#[test]
fn documents_that_could_mean_two_things_are_refused() {
    let raw = |change: &'static dyn Fn(String) -> String| {
        move |l: &Layout| {
            let layer = l.add_layer(&small(), Packing::Gzip);
            let config = l.add_json(CONFIG, &layout::config(&[&small()]));
            let text = layout::manifest(&config, &[layer]).to_string();
            publish(l, l.add(MANIFEST, change(text).as_bytes()));
        }
    };
    let twice = raw(&|text| text.replacen('{', "{\"schemaVersion\":2,", 1));
    let as_index = |l: &Layout| {
        let mut manifest = layout::manifest(&l.add_json(CONFIG, &layout::config(&[])), &[]);
        manifest["mediaType"] = json!(INDEX);
        publish(l, l.add_json(MANIFEST, &manifest));
    };
    refuse(&[
        (
            "both",
            &|l| with_manifest(l, |m| m["manifests"] = json!([])),
            "both \"manifests\"",
        ),
        ("other type", &as_index, "was promised"),
        ("twice", &twice, "schemaVersion"),
        (
            "other case",
            &raw(&|text| text.replace("\"config\"", "\"Config\"")),
            "config",
        ),
        (
            "no version",
            &|l| with_manifest(l, |m| m["schemaVersion"] = json!(3)),
            "schemaVersion",
        ),
        ("trailing", &raw(&|text| text + "{}"), "manifest sha256:"),
        (
            "a list",
            &raw(&|text| format!("[{text}]")),
            "manifest sha256:",
        ),
        (
            "huge",
            &raw(&|text| text + &" ".repeat(5 << 20)),
            "larger than",
        ),
    ]);
}

#[test]
fn layers_that_are_not_the_configs_are_refused() {
    let other = Digest::sha256(&tar(&[("etc/a", "2")]));
    let ids =
        |ids: Value| move |l: &Layout| with_config(l, |c| c["rootfs"]["diff_ids"] = ids.clone());
    let own = Digest::sha256(&small());
    refuse(&[
        ("other", &ids(json!([other])), "diff_id"),
        ("none", &ids(json!([])), "has 0 diff_ids for the 1 layers"),
        (
            "two",
            &ids(json!([own, own])),
            "has 2 diff_ids for the 1 layers",
        ),
        (
            "upper case",
            &ids(json!([own.to_string().to_uppercase()])),
            "diff_ids",
        ),
        (
            "type",
            &|l| with_config(l, |c| c["rootfs"]["type"] = json!("squashfs")),
            "is not \"layers\"",
        ),
    ]);
}

#[test]
fn compressed_bytes_that_are_not_exactly_one_layer_are_refused() {
    let packed = |kind: &'static str, bytes: Vec<u8>| {
        move |l: &Layout| {
            let layer = l.add(&format!("{LAYER}{kind}"), &bytes);
            let config = l.add_json(CONFIG, &layout::config(&[&small()]));
            publish(l, l.add_manifest(&config, &[layer]));
        }
    };
    let (gz, zst) = (gzip(&small()), zstd::encode_all(&small()[..], 1).unwrap());
    let mut wrong_crc = gz.clone();
    let crc = wrong_crc.len() - 8;
    wrong_crc[crc] ^= 1;
    let cut = |bytes: &[u8]| bytes[..bytes.len() - 9].to_vec();
    let followed = |bytes: &[u8]| [bytes, b"garbage"].concat();
    refuse(&[
        ("gzip cut", &packed("+gzip", cut(&gz)), "layer sha256:"),
        (
            "gzip followed",
            &packed("+gzip", followed(&gz)),
            "layer sha256:",
        ),
        ("gzip CRC", &packed("+gzip", wrong_crc), "layer sha256:"),
        ("zstd cut", &packed("+zstd", cut(&zst)), "layer sha256:"),
        (
            "zstd followed",
            &packed("+zstd", followed(&zst)),
            "layer sha256:",
        ),
        ("plain as gzip", &packed("+gzip", small()), "layer sha256:"),
        ("gzip as plain", &packed("", gz), "layer sha256:"),
        ("nothing", &packed("+gzip", Vec::new()), "layer sha256:"),
    ]);
}

#[test]
fn a_layer_that_would_leave_the_root_or_replace_the_runtimes_own_is_refused() {
    let layer = |bytes: Vec<u8>| move |l: &Layout| drop(l.publish_image(&[&bytes], Packing::Gzip));
    let link = |name: &str| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        let mut tar = tar::Builder::new(Vec::new());
        tar.append_link(&mut header, name, "/etc").unwrap();
        tar.into_inner().unwrap()
    };
    let mut climbing = small();
    climbing[..5].copy_from_slice(b"../xx");
    let sum: u32 = climbing[..512]
        .iter()
        .enumerate()
        .map(|(at, byte)| match at {
            148..156 => u32::from(b' '),
            _ => u32::from(*byte),
        })
        .sum();
    climbing[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    for (name, bytes, text) in [
        ("climbing", climbing, ".."),
        ("dev", link("dev"), "/dev"),
        ("proc", link("proc"), "/proc"),
        ("sys", link("sys"), "/sys"),
        ("no tar", vec![b'x'; 1024], "layer"),
        ("half a tar", small()[..600].to_vec(), "layer"),
    ] {
        let Some(outcome) = import(layer(bytes)) else {
            return;
        };
        println!("{name}: {}", outcome.err);
        outcome.refused(text);
    }
}

#[test]
fn archives_that_are_none_or_lack_what_they_name_are_refused() {
    let host = host!();
    let import = |transport: &str, bytes: &[u8]| {
        let file = host.write("archive", bytes);
        host.imrun([
            "import".into(),
            format!("{transport}-archive:{}", file.display()),
        ])
    };
    let docker = |entries: Value, files: &[(&str, Vec<u8>)]| {
        let manifest = ("manifest.json", entries.to_string().into_bytes());
        import("docker", &tar(&[&[manifest], files].concat()))
    };
    let config = || {
        (
            "config.json",
            layout::config(&[&small()]).to_string().into_bytes(),
        )
    };
    let entry = |layer: &str| json!([{ "Config": "config.json", "RepoTags": ["app:1"], "Layers": [layer] }]);
    let two = json!([entry("layer.tar")[0], { "Config": "other.json", "RepoTags": ["app:2"], "Layers": [] }]);

    docker(
        entry("layer.tar"),
        &[config(), ("layer.tar", tar(&[("etc/a", "2")]))],
    )
    .refused("diff_id");
    docker(entry("layer.tar"), &[config()]).refused("layer.tar");
    docker(entry("layer.tar"), &[("layer.tar", small())]).refused("config.json");
    docker(entry("../layer.tar"), &[config()]).refused("not the name of a member");
    docker(entry("/layer.tar"), &[config()]).refused("not the name of a member");
    docker(two, &[config(), ("layer.tar", small())]).refused("has several images: app:1, app:2");
    docker(json!([]), &[]).refused("has no image");
    docker(json!({}), &[]).refused("manifest.json");

    for transport in ["oci", "docker"] {
        import(transport, b"").refused("");
        import(transport, b"not a tar").refused("archive");
        import(transport, &gzip(b"not a tar")).refused("archive");
        import(transport, &gzip(&small())[..40]).refused("archive");
        import(transport, &small())
            .refused(&format!(": is not in {}", host.path("archive").display()));
    }
    let file = fs::File::open(host.write("archive", small())).unwrap();
    host.imrun_reading(["import", "-"], file)
        .refused("standard input: has neither an index.json");
    host.imrun(["import", "-"]).refused("standard input");
    host.imrun(["import", "oci:/no/such/layout"])
        .refused("/no/such/layout");
    host.imrun(["import", "dir:/etc"])
        .refused("source \"dir:/etc\"")
        .hints("oci:DIR");
    host.imrun(["verify"]).exits(0).prints("");
    docker(entry("layer.tar"), &[config(), ("layer.tar", small())]).exits(0);
}
