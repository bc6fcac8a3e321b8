//! Choosing one image of several: by platform, by ref, by tag.

use super::*;

/// An entry of an index for a platform, its digest made from `seed`.
fn entry(platform: &str, seed: &str) -> Value {
    let mut entry = descriptor(OCI_MANIFEST);
    entry["digest"] = Digest::sha256(seed.as_bytes()).to_string().into();
    let parts: Vec<&str> = platform.split('/').collect();
    if let [os, architecture, ..] = parts[..] {
        entry["platform"] = json!({"os": os, "architecture": architecture});
    }
    if let Some(variant) = parts.get(2) {
        entry["platform"]["variant"] = (*variant).into();
    }
    entry
}

#[test]
fn the_entry_of_the_platform_is_selected_as_containerd_does() {
    for (wanted, entries, expected) in [
        (
            "linux/arm64/v8",
            &["linux/amd64", "linux/arm64"][..],
            Some(1),
        ),
        ("linux/arm64", &["linux/arm64/v8", "linux/arm64"], Some(0)),
        ("linux/arm64", &["linux/arm64/v9"], None),
        ("linux/arm64/v9", &["linux/arm64/v8"], Some(0)),
        ("linux/arm64", &["linux/arm/v7"], None),
        (
            "linux/amd64",
            &["linux/amd64/v2", "linux/amd64/v1"],
            Some(1),
        ),
        (
            "linux/amd64/v3",
            &["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"],
            Some(1),
        ),
        (
            "linux/amd64/v3",
            &["linux/amd64", "linux/amd64/v3"],
            Some(1),
        ),
        ("linux/amd64", &["linux/386", "windows/amd64"], None),
        (
            "linux/arm/v7",
            &["linux/arm/v5", "linux/arm/v6", "linux/arm/v8"],
            Some(1),
        ),
        ("linux/arm", &["linux/arm/v7"], Some(0)),
        ("linux/x86_64", &["linux/amd64", "linux/amd64"], Some(0)),
        ("linux/amd64", &["unknown/unknown", "linux/amd64"], Some(1)),
        ("linux/riscv64", &["linux/riscv64"], Some(0)),
        ("linux/amd64", &[""], Some(0)),
        ("linux/amd64", &["unknown/unknown", ""], Some(1)),
        ("linux/amd64", &["", ""], None),
    ] {
        let list: Vec<_> = entries
            .iter()
            .enumerate()
            .map(|(i, p)| entry(p, &i.to_string()))
            .collect();
        let index = parse_index(list.clone().into());
        let selected = index.select(&wanted.parse().unwrap());
        match expected {
            Some(place) => assert_eq!(
                selected.unwrap().digest.to_string(),
                list[place]["digest"],
                "{wanted}"
            ),
            None => assert!(selected.is_err(), "{wanted} of {entries:?}"),
        }
    }
}

#[test]
fn an_index_without_the_platform_lists_those_it_has() {
    let entries = json!([
        entry("linux/arm/v7", "a"),
        entry("unknown/unknown", "b"),
        entry("linux/s390x", "c")
    ]);
    let error = parse_index(entries)
        .select(&"linux/amd64".parse().unwrap())
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "doc: has no image for linux/amd64, only for linux/arm/v7, linux/s390x"
    );
}

#[test]
fn attestations_and_artifacts_in_an_index_are_passed_over() {
    let mut attestation = entry("linux/amd64", "a");
    attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
    let mut artifact = entry("linux/amd64", "b");
    artifact["artifactType"] = "text/spdx".into();
    let mut other = entry("linux/amd64", "c");
    other["mediaType"] = "text/plain".into();
    let image = entry("linux/amd64", "d");
    let index = parse_index(json!([attestation, artifact, other, image]));
    let selected = index.select(&"linux/amd64".parse().unwrap()).unwrap();
    assert_eq!(selected.digest, Digest::sha256(b"d"));
    assert_eq!(index.images().count(), 1);
}

#[test]
fn platforms_are_read_and_written_normalised() {
    for (text, normal) in [
        ("linux/amd64", "linux/amd64"),
        ("Linux/AMD64/v1", "linux/amd64"),
        ("linux/x86_64/v3", "linux/amd64/v3"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm64/v8.2", "linux/arm64/v8.2"),
        ("linux/armhf", "linux/arm/v7"),
        ("linux/arm/6", "linux/arm/v6"),
        ("linux/i386", "linux/386"),
    ] {
        assert_eq!(text.parse::<Platform>().unwrap().to_string(), normal);
    }
    for wrong in [
        "",
        "linux",
        "linux/",
        "/amd64",
        "linux/a/b/c",
        "linux/a b",
        "linux/\u{e9}",
    ] {
        assert!(wrong.parse::<Platform>().is_err(), "{wrong:?} was taken");
    }
    assert_eq!(Platform::host().os, "linux");
}

#[test]
fn a_layout_of_another_version_is_refused() {
    assert!(layout::check("l", br#"{"imageLayoutVersion": "1.0.0"}"#).is_ok());
    for wrong in [
        r#"{"imageLayoutVersion": "2.0.0"}"#,
        r#"{"imageLayoutVersion": 1}"#,
        "{}",
        "",
    ] {
        assert!(
            layout::check("l", wrong.as_bytes()).is_err(),
            "{wrong:?} was taken"
        );
    }
}

fn named(name: &str, digest: &str) -> Value {
    let mut entry = descriptor(OCI_MANIFEST);
    entry["digest"] = digest.into();
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
    entry
}

fn layout_index(entries: Value) -> Index {
    let bytes = json!({"schemaVersion": 2, "manifests": entries}).to_string();
    layout::index("l", bytes.as_bytes()).unwrap()
}

#[test]
fn a_ref_of_a_layout_is_found_by_its_annotation() {
    let index = layout_index(json!([named("a", DIGEST), named("b", OTHER)]));
    assert_eq!(index.by_name(Some("b")).unwrap().digest.to_string(), OTHER);
    let missing = index.by_name(Some("c")).unwrap_err();
    assert_eq!(missing.to_string(), "l: has no ref \"c\", only a, b");
    let several = index.by_name(None).unwrap_err();
    assert_eq!(several.to_string(), "l: has several images: a, b");
}

#[test]
fn a_ref_that_names_two_manifests_is_refused_and_one_named_twice_is_not() {
    let error = layout_index(json!([named("a", DIGEST), named("a", OTHER)]))
        .by_name(Some("a"))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "l: the ref \"a\" names two different manifests"
    );
    let twice = layout_index(json!([
        named("a", DIGEST),
        named("a", DIGEST),
        named("b", DIGEST)
    ]));
    assert!(twice.by_name(Some("a")).is_ok());
    assert!(twice.by_name(None).is_ok());
}

#[test]
fn the_only_image_of_a_layout_needs_no_ref() {
    let unknown = entry("unknown/unknown", "x");
    let index = layout_index(json!([unknown, descriptor(OCI_MANIFEST)]));
    assert_eq!(index.by_name(None).unwrap().digest.to_string(), DIGEST);
    assert_eq!(
        layout_index(json!([]))
            .by_name(None)
            .unwrap_err()
            .to_string(),
        "l: has no image"
    );
}

fn archive(tags: Value) -> Value {
    json!({"Config": "c.json", "RepoTags": tags, "Layers": ["a/layer.tar", "blobs/sha256/b"]})
}

#[test]
fn a_docker_archive_is_read_and_its_only_image_needs_no_tag() {
    let bytes = json!([archive(Value::Null)]).to_string();
    let entries = archive::parse("a", bytes.as_bytes()).unwrap();
    let entry = archive::select("a", &entries, None).unwrap();
    assert_eq!(
        (entry.config.as_str(), entry.layers.len(), entry.tags.len()),
        ("c.json", 2, 0)
    );
}

#[test]
fn of_several_images_in_a_docker_archive_one_must_be_chosen_by_tag() {
    let bytes = json!([archive(json!(["x:1", "y:1"])), archive(json!(["x:2"]))]).to_string();
    let entries = archive::parse("a", bytes.as_bytes()).unwrap();
    assert_eq!(
        archive::select("a", &entries, Some("x:2")).unwrap(),
        &entries[1]
    );
    let several = archive::select("a", &entries, None).unwrap_err();
    assert_eq!(several.to_string(), "a: has several images: x:1, y:1, x:2");
    let missing = archive::select("a", &entries, Some("z")).unwrap_err();
    assert_eq!(
        missing.to_string(),
        "a: has no image \"z\", only x:1, y:1, x:2"
    );
    assert_eq!(
        archive::select("a", &[], None).unwrap_err().to_string(),
        "a: has no image"
    );
}

#[test]
fn member_names_that_leave_a_docker_archive_are_refused() {
    for name in [
        "",
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a//b",
        "./a",
        "a\0b",
    ] {
        let bytes = json!([{"Config": name, "Layers": []}]).to_string();
        let error = archive::parse("a", bytes.as_bytes()).unwrap_err();
        assert!(
            error.why.contains("not the name of a member"),
            "{name:?}: {error}"
        );
    }
}
