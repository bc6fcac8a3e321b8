//! `imrun bake --seal`: the manifest's verity annotations, and refusals of wrong ones.

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

/// Bakes the test image with one more layer and verity annotations. Returns its digest.
fn annotated(host: &Host) -> String {
    let base = host.busybox();
    host.write("top", "a file of its own layer");
    let text = format!("base = {base:?}\n[[file]]\nsource = \"top\"\npath = \"/top\"");
    let file = host.write("annotated.toml", text);
    let words = ["bake", "--seal", file.to_str().unwrap()];
    host.imrun(words).exits(0).line()
}

fn document(host: &Host, digest: &str) -> Value {
    serde_json::from_slice(&fs::read(host.blob(digest)).unwrap()).unwrap()
}

/// Returns the image's tars, lowest first, and then its tree image.
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

/// Returns the output of `fsverity digest`, or `None` if it is not installed.
fn fsverity(file: &Path) -> Option<String> {
    let mut command = Command::new("fsverity");
    let output = command.args(["digest", "--compact"]).arg(file).output();
    let text = String::from_utf8(output.ok()?.stdout).unwrap();
    Some(format!("sha256:{}", text.trim()))
}

#[test]
fn verity_annotations_are_the_digests_that_fsverity_computes() {
    let host = host!();
    let image = annotated(&host);
    let manifest = document(&host, &image);
    let layers = manifest["layers"].as_array().unwrap().iter();
    let mut annotations: Vec<_> = layers.map(|l| &l["annotations"][VERITY]).collect();
    annotations.push(&manifest["annotations"][TREE_VERITY]);
    let files = files(&host, &manifest);
    assert_eq!((annotations.len(), files.len()), (3, 3));
    for (annotation, file) in annotations.into_iter().zip(files) {
        match fsverity(&file) {
            Some(theirs) => assert_eq!(annotation, &Value::from(theirs), "{file:?}"),
            None => return eprintln!("skipped: fsverity is not installed"),
        }
    }
}

#[test]
fn baking_with_seal_is_reproducible_and_adds_only_annotations() {
    let host = host!();
    let image = annotated(&host);
    assert_eq!(annotated(&host), image);
    let file = host.path("annotated.toml");
    let plain = host.imrun(["bake".as_ref(), file.as_os_str()]).exits(0);
    let plain = document(&host, &plain.line());
    let mut stripped = document(&host, &image);
    let annotations = stripped["annotations"].as_object_mut().unwrap();
    annotations.retain(|name, _| !name.starts_with("dev.imrun."));
    for layer in stripped["layers"].as_array_mut().unwrap() {
        layer.as_object_mut().unwrap().remove("annotations");
    }
    assert_eq!(plain, stripped, "only annotations are added");
    host.imrun(["verify"]).exits(0);
}

/// Returns a layout of the image with another manifest.
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

/// Member of a manifest, and a part of the error for another digest in it.
const WRONG: [(&str, &str); 4] = [
    ("/layers/0/annotations/dev.imrun.verity", "fs-verity"),
    ("/layers/1/annotations/dev.imrun.verity", "fs-verity"),
    (
        "/annotations/dev.imrun.verity.tree.1",
        "tree image, fs-verity",
    ),
    ("/annotations/dev.imrun.tree.1", "tree image"),
];

#[test]
fn an_import_refuses_a_wrong_annotation_and_leaves_nothing() {
    let host = host!();
    let manifest = document(&host, &annotated(&host));
    for (place, what) in WRONG {
        let mut wrong = manifest.clone();
        *wrong.pointer_mut(place).unwrap() = json!(format!("sha256:{}", "0".repeat(64)));
        let layout = layout_of(&host, &wrong);
        let other = host.path("other");
        let refused = import_into(&other, &layout);
        assert_eq!(refused.0, 125, "{place}: {}", refused.1);
        assert!(refused.1.contains(what), "{place}: {}", refused.1);
        assert!(
            refused
                .1
                .contains("annotation in the manifest is sha256:0000"),
            "{place}"
        );
        let blobs = fs::read_dir(other.join("blobs/sha256")).unwrap().count();
        assert_eq!(blobs, 0, "{place}");
    }
    let imported = import_into(&host.path("other"), &layout_of(&host, &manifest));
    assert_eq!(imported.0, 0, "{}", imported.1);
}

/// Imports into another store. Returns the exit status and standard error.
fn import_into(store: &Path, layout: &Layout) -> (i32, String) {
    let mut command = Command::new(crate::support::host::IMRUN);
    let command = command.args(["import", &layout.source()]);
    let output = command.arg("--store").arg(store).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), text)
}

#[test]
fn verify_reports_a_wrong_annotation_and_a_launch_that_hashes_ignores_it() {
    let host = host!();
    let manifest = document(&host, &annotated(&host));
    for (place, what) in WRONG {
        let mut wrong = manifest.clone();
        *wrong.pointer_mut(place).unwrap() = json!(format!("sha256:{}", "0".repeat(64)));
        let bytes = wrong.to_string();
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
fn an_annotation_that_is_not_a_digest_is_named() {
    let host = host!();
    let manifest = document(&host, &annotated(&host));
    for (place, text) in [
        (WRONG[0].0, "sha256:0"),
        (WRONG[2].0, "md5:"),
        (WRONG[3].0, ""),
    ] {
        let mut wrong = manifest.clone();
        *wrong.pointer_mut(place).unwrap() = json!(text);
        let layout = layout_of(&host, &wrong);
        let refused = host.imrun(["import", &layout.source()]).of(place);
        let name = place.rsplit('/').next().unwrap();
        refused.exits(125).says(&format!("annotation {name:?}"));
    }
}

/// Another writer version makes another tree image, so imrun ignores its annotations.
#[test]
fn annotations_of_another_writer_version_are_ignored() {
    let host = host!();
    let mut manifest = document(&host, &annotated(&host));
    let zeros = format!("sha256:{}", "0".repeat(64));
    manifest["annotations"] = json!({
        "dev.imrun.tree.4294967295": zeros,
        "dev.imrun.verity.tree.4294967295": zeros,
    });
    let digest = host.import(layout_of(&host, &manifest).source());
    host.imrun(["verify", &digest]).exits(0);
}
