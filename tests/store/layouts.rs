//! Layouts with one fault each: the import names the fault and leaves the store unchanged.

mod documents;
mod packed;

use crate::host;
use crate::support::host::Host;
use crate::support::layout::{
    self, CONFIG, INDEX, LAYER, Layout, MANIFEST, Packing, gzip, named, on, tar,
};
use crate::support::outcome::Outcome;
use imrun::base::digest::Digest;
use imrun::image::manifest::Platform;
use nix::sys::stat::{Mode, SFlag, mknod};
use serde_json::{Value, json};
use std::fs;
use std::net::TcpListener;
use std::path::Path;

/// Name of a fault, the function that causes it, and a part of the error.
type Fault<'a> = (&'a str, &'a dyn Fn(&Layout), &'a str);

fn small() -> Vec<u8> {
    tar(&[("etc/a", "1")])
}

/// Imports the layout that `build` makes from an empty one, next to a valid image.
fn import(build: impl Fn(&Layout)) -> Option<Outcome> {
    let host = match Host::new() {
        Ok(host) => host,
        Err(why) => {
            crate::support::skip::skip(why);
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
        // Whole layers may have been stored; no image needs them.
        host.imrun(["gc"]).exits(0);
        assert_eq!(host.blobs(), before.0);
    }
    Some(outcome)
}

fn refuse(faults: &[Fault<'_>]) {
    for (name, build, text) in faults {
        let Some(outcome) = import(build) else { return };
        outcome.of(name).refused(text);
    }
}

fn publish(layout: &Layout, manifest: Value) {
    layout.publish(&[manifest]);
}

/// Publishes an image of the small layer after changing some of its parts.
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

/// Publishes a valid image, and then changes one of its blobs.
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
fn the_layout_without_a_fault_is_imported() {
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
fn a_blob_that_is_truncated_extended_or_changed_is_named() {
    for packing in [Packing::Plain, Packing::Gzip, Packing::Zstd] {
        refuse(&[
            (
                "short",
                &|l| damage(l, packing, "layer", truncate),
                "bytes, but its descriptor says",
            ),
            (
                "long",
                &|l| damage(l, packing, "layer", grow),
                "bytes, but its descriptor says",
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
fn a_blob_that_is_not_a_regular_file_is_refused_without_blocking() {
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
fn a_directory_that_is_not_a_layout_is_refused() {
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
        "imrun connected to fetch the layer"
    );
}
