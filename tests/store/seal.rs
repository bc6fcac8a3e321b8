//! `imrun bake --seal`: what the manifest says of the image's files, and what becomes of one that lies.

use crate::host;
use crate::support::host::Host;
use crate::support::layout::{Layout, MANIFEST};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const VERITY: &str = "dev.imrun.verity";
const TREE: &str = "dev.imrun.tree.1";
const TREE_VERITY: &str = "dev.imrun.verity.tree.1";

/// The digest of the test image with one layer more, sealed.
fn sealed(host: &Host) -> String {
    let base = host.busybox();
    host.write("top", "a file of its own layer");
    let text = format!("base = {base:?}\n[[file]]\nsource = \"top\"\npath = \"/top\"");
    let file = host.write("sealed.toml", text);
    let words = ["bake", "--seal", file.to_str().unwrap()];
    host.imrun(words).exits(0).line()
}

fn document(host: &Host, digest: &str) -> Value {
    serde_json::from_slice(&fs::read(host.blob(digest)).unwrap()).unwrap()
}

/// The tars of an image, lowest first, and then its tree image.
fn files(host: &Host, manifest: &Value) -> Vec<PathBuf> {
    let layers = manifest["layers"].as_array().unwrap().iter();
    let mut files: Vec<_> = layers
        .map(|layer| host.blob(layer["digest"].as_str().unwrap()))
        .collect();
    let trees = fs::read_dir(host.path("store/trees")).unwrap();
    let trees = trees.map(|entry| entry.unwrap().path());
    let tree = manifest["annotations"][TREE].as_str().unwrap();
    let mine = |path: &PathBuf| {
        imrun::base::digest::Digest::sha256(&fs::read(path).unwrap()).to_string() == tree
    };
    files.extend(trees.filter(mine));
    files
}

/// What the tool of fs-verity's authors says of a file; None where it is not installed.
fn fsverity(file: &Path) -> Option<String> {
    let mut command = Command::new("fsverity");
    let output = command.args(["digest", "--compact"]).arg(file).output();
    let text = String::from_utf8(output.ok()?.stdout).unwrap();
    Some(format!("sha256:{}", text.trim()))
}

#[test]
fn a_sealed_manifest_has_the_digests_that_fsverity_computes() {
    let host = host!();
    let image = sealed(&host);
    let manifest = document(&host, &image);
    let layers = manifest["layers"].as_array().unwrap().iter();
    let mut said: Vec<_> = layers.map(|l| &l["annotations"][VERITY]).collect();
    said.push(&manifest["annotations"][TREE_VERITY]);
    let files = files(&host, &manifest);
    assert_eq!((said.len(), files.len()), (3, 3));
    for (said, file) in said.into_iter().zip(files) {
        match fsverity(&file) {
            Some(theirs) => assert_eq!(said, &Value::from(theirs), "{file:?}"),
            None => return eprintln!("skipped: fsverity is not installed"),
        }
    }
}

#[test]
fn sealed_twice_it_is_the_same_image_and_unsealed_another_one() {
    let host = host!();
    let image = sealed(&host);
    assert_eq!(sealed(&host), image);
    let file = host.path("sealed.toml");
    let plain = host.imrun(["bake".as_ref(), file.as_os_str()]).exits(0);
    let plain = document(&host, &plain.line());
    let mut unsealed = document(&host, &image);
    let annotations = unsealed["annotations"].as_object_mut().unwrap();
    annotations.retain(|name, _| !name.starts_with("dev.imrun."));
    for layer in unsealed["layers"].as_array_mut().unwrap() {
        layer.as_object_mut().unwrap().remove("annotations");
    }
    assert_eq!(plain, unsealed, "nothing but the seal is added");
    host.imrun(["verify"]).exits(0);
}

/// A layout of the image with another manifest in place of its own.
fn layout_of(host: &Host, manifest: &Value) -> Layout {
    let layout = Layout::new(host.path("layout"));
    let blobs = manifest["layers"].as_array().unwrap().iter();
    for descriptor in blobs.chain([&manifest["config"]]) {
        let digest = descriptor["digest"].as_str().unwrap();
        fs::copy(host.blob(digest), layout.blob(descriptor)).unwrap();
    }
    layout.publish(&[layout.add_json(MANIFEST, manifest)]);
    layout
}

/// A place in a manifest, and what a refusal of another digest there says.
const LIES: [(&str, &str); 4] = [
    ("/layers/0/annotations/dev.imrun.verity", "fs-verity"),
    ("/layers/1/annotations/dev.imrun.verity", "fs-verity"),
    (
        "/annotations/dev.imrun.verity.tree.1",
        "tree image, fs-verity",
    ),
    ("/annotations/dev.imrun.tree.1", "tree image"),
];

#[test]
fn an_import_refuses_a_false_seal_and_leaves_nothing() {
    let host = host!();
    let manifest = document(&host, &sealed(&host));
    for (place, what) in LIES {
        let mut false_one = manifest.clone();
        *false_one.pointer_mut(place).unwrap() = json!(format!("sha256:{}", "0".repeat(64)));
        let layout = layout_of(&host, &false_one);
        let other = host.path("other");
        let refused = import_into(&other, &layout);
        assert_eq!(refused.0, 125, "{place}: {}", refused.1);
        assert!(refused.1.contains(what), "{place}: {}", refused.1);
        assert!(refused.1.contains("sealed with sha256:0000"), "{place}");
        let blobs = fs::read_dir(other.join("blobs/sha256")).unwrap().count();
        assert_eq!(blobs, 0, "{place}");
    }
    let taken = import_into(&host.path("other"), &layout_of(&host, &manifest));
    assert_eq!(taken.0, 0, "{}", taken.1);
}

/// Exit code and standard error of an import into another store.
fn import_into(store: &Path, layout: &Layout) -> (i32, String) {
    let mut command = Command::new(crate::support::host::IMRUN);
    let command = command.args(["import", &layout.source()]);
    let output = command.arg("--store").arg(store).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), text)
}

#[test]
fn verify_finds_a_false_seal_and_a_launch_that_hashes_has_no_use_for_it() {
    let host = host!();
    let manifest = document(&host, &sealed(&host));
    for (place, what) in LIES {
        let mut false_one = manifest.clone();
        *false_one.pointer_mut(place).unwrap() = json!(format!("sha256:{}", "0".repeat(64)));
        let bytes = false_one.to_string();
        let digest = imrun::base::digest::Digest::sha256(bytes.as_bytes()).to_string();
        fs::write(host.blob(&digest), bytes).unwrap();
        let verified = host.imrun(["verify", &digest]).of(place).exits(1);
        assert!(verified.out.contains("DIFFERS"), "{verified:?}");
        assert!(verified.out.contains(what), "{verified:?}");
        let launch = host.launch_of(&digest).options(["--integrity", "hashed"]);
        launch.app(["true"]).run().exits(0);
    }
}

#[test]
fn an_annotation_that_is_no_digest_is_named() {
    let host = host!();
    let manifest = document(&host, &sealed(&host));
    for (place, text) in [
        (LIES[0].0, "sha256:0"),
        (LIES[2].0, "md5:"),
        (LIES[3].0, ""),
    ] {
        let mut wrong = manifest.clone();
        *wrong.pointer_mut(place).unwrap() = json!(text);
        let layout = layout_of(&host, &wrong);
        let refused = host.imrun(["import", &layout.source()]).of(place);
        let name = place.rsplit('/').next().unwrap();
        refused.exits(125).says(&format!("annotation {name:?}"));
    }
}

/// The tree image of another writer is another one: such a seal is none.
#[test]
fn a_seal_of_another_writer_version_is_not_looked_at() {
    let host = host!();
    let mut manifest = document(&host, &sealed(&host));
    let zeros = format!("sha256:{}", "0".repeat(64));
    manifest["annotations"] = json!({
        "dev.imrun.tree.4294967295": zeros,
        "dev.imrun.verity.tree.4294967295": zeros,
    });
    let digest = host.import(layout_of(&host, &manifest).source());
    host.imrun(["verify", &digest]).exits(0);
}
