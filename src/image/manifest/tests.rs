mod choice;

use super::*;
use proptest::prelude::*;
use serde_json::json;

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const OTHER: &str = "sha256:6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b";
const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn descriptor(media_type: &str) -> Value {
    json!({"mediaType": media_type, "digest": DIGEST, "size": 7})
}

fn manifest() -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(OCI_CONFIG),
        "layers": [descriptor(GZIP)],
    })
}

fn index(entries: Value) -> Value {
    json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
}

fn config() -> Value {
    json!({
        "os": "linux", "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": [DIGEST]},
    })
}

/// Returns `base` with one member (a JSON pointer) set.
fn with(mut base: Value, pointer: &str, value: Value) -> Value {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = base.pointer_mut(parent).unwrap();
    match parent {
        Value::Array(list) => list[key.parse::<usize>().unwrap()] = value,
        object => object[key] = value,
    }
    base
}

/// Returns `base` without one of its top-level members.
fn without(mut base: Value, key: &str) -> Value {
    base.as_object_mut().unwrap().remove(key).unwrap();
    base
}

fn parse(document: &Value) -> Result<Document> {
    Document::parse("doc", document.to_string().as_bytes(), None)
}

fn parse_index(entries: Value) -> Index {
    match parse(&index(entries)).unwrap() {
        Document::Index(index) => index,
        Document::Manifest(_) => panic!("an index was read as a manifest"),
    }
}

#[track_caller]
fn refused(document: &Value, because: &str) {
    let error = parse(document).expect_err("was taken").to_string();
    assert!(
        error.contains(because),
        "{error:?} does not say {because:?}"
    );
}

#[test]
fn oci_and_docker_manifests_are_read() {
    for (own, config, layer, kind) in [
        (OCI_MANIFEST, OCI_CONFIG, OCI_LAYER, LayerKind::Tar),
        (OCI_MANIFEST, OCI_CONFIG, GZIP, LayerKind::Compressed),
        (
            OCI_MANIFEST,
            OCI_CONFIG,
            "application/vnd.oci.image.layer.v1.tar+zstd",
            LayerKind::Compressed,
        ),
        (
            DOCKER_MANIFEST,
            DOCKER_CONFIG,
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            LayerKind::Compressed,
        ),
        (
            DOCKER_MANIFEST,
            DOCKER_CONFIG,
            "application/vnd.docker.image.rootfs.diff.tar",
            LayerKind::Tar,
        ),
    ] {
        let mut document = with(manifest(), "/mediaType", own.into());
        document = with(document, "/config/mediaType", config.into());
        document = with(document, "/layers/0/mediaType", layer.into());
        let Document::Manifest(manifest) = parse(&document).unwrap() else {
            panic!("{own} was read as an index");
        };
        assert_eq!(manifest.config.digest.to_string(), DIGEST);
        assert_eq!(manifest.layers[0].size, 7);
        assert_eq!(LayerKind::of(&manifest.layers[0].media_type), Some(kind));
    }
}

#[test]
fn the_type_of_a_document_without_media_type_follows_from_its_descriptor_or_members() {
    let bare = without(manifest(), "mediaType");
    assert!(matches!(parse(&bare), Ok(Document::Manifest(_))));
    let bare_index = without(index(json!([])), "mediaType");
    assert!(matches!(parse(&bare_index), Ok(Document::Index(_))));
    let promised = Document::parse("doc", bare.to_string().as_bytes(), Some(OCI_INDEX));
    assert_eq!(
        promised.unwrap_err().to_string(),
        "doc: lacks \"manifests\""
    );
}

#[test]
fn a_document_with_both_manifests_and_layers_or_config_is_refused() {
    for key in ["layers", "config"] {
        for value in [manifest()[key].clone(), Value::Null] {
            refused(
                &with(index(json!([])), &format!("/{key}"), value),
                "has both \"manifests\" and",
            );
        }
    }
    refused(
        &with(manifest(), "/manifests", json!([])),
        "has both \"manifests\" and",
    );
}

#[test]
fn a_media_type_other_than_the_expected_one_is_refused() {
    let bytes = manifest().to_string();
    assert!(Document::parse("doc", bytes.as_bytes(), Some(OCI_MANIFEST)).is_ok());
    for promised in [OCI_INDEX, DOCKER_MANIFEST, "text/plain"] {
        let error = Document::parse("doc", bytes.as_bytes(), Some(promised)).unwrap_err();
        assert!(
            error.why.ends_with(&format!("expected {promised:?}")),
            "{error}"
        );
    }
    refused(
        &with(manifest(), "/mediaType", "text/plain".into()),
        "neither an index nor a manifest",
    );
    refused(
        &with(manifest(), "/mediaType", OCI_INDEX.into()),
        "lacks \"manifests\"",
    );
}

#[test]
fn duplicate_keys_are_refused() {
    let text = manifest().to_string().replacen('{', "{\"layers\":[],", 1);
    let error = Document::parse("doc", text.as_bytes(), None).unwrap_err();
    assert!(error.why.contains("duplicate key \"layers\""), "{error}");
}

#[test]
fn keys_that_differ_in_case_are_ignored() {
    let text = manifest().to_string().replace("\"layers\"", "\"Layers\"");
    let error = Document::parse("doc", text.as_bytes(), None).unwrap_err();
    assert_eq!(error.why, "lacks \"layers\"");
    let both = with(manifest(), "/Manifests", json!([]));
    assert!(matches!(parse(&both), Ok(Document::Manifest(_))));
}

#[test]
fn sizes_that_are_not_int64_are_refused() {
    for size in [
        json!(-1),
        json!(1.5),
        json!(7.0),
        json!("7"),
        json!(u64::MAX),
        json!(1u64 << 63),
        json!([7]),
    ] {
        refused(
            &with(manifest(), "/layers/0/size", size),
            "`layers[0].size` is not a whole number",
        );
    }
    refused(
        &with(manifest(), "/config/size", Value::Null),
        "`config` lacks \"size\"",
    );
    assert!(parse(&with(manifest(), "/layers/0/size", json!(i64::MAX))).is_ok());
}

#[test]
fn digests_in_upper_case_of_a_wrong_length_or_an_unknown_algorithm_are_refused() {
    for (digest, because) in [
        (DIGEST.to_uppercase(), "neither sha256 nor sha512"),
        (DIGEST.replace('e', "E"), "only the digits 0-9 and a-f"),
        (DIGEST[..70].to_string(), "sha256 has 64 hex digits"),
        (
            DIGEST.replace("sha256", "sha512"),
            "sha512 has 128 hex digits",
        ),
        (
            DIGEST.replace("sha256", "sha384"),
            "neither sha256 nor sha512",
        ),
        ("../../etc/passwd".to_string(), "is not ALGORITHM:HEX"),
    ] {
        refused(
            &with(manifest(), "/layers/0/digest", digest.into()),
            because,
        );
    }
}

#[test]
fn artifacts_are_refused_and_called_artifacts() {
    for kind in [
        "application/vnd.oci.empty.v1+json",
        "application/vnd.cncf.helm.config.v1+json",
    ] {
        let document = with(manifest(), "/config/mediaType", kind.into());
        refused(&document, &format!("is an artifact ({kind}), not an image"));
    }
    let typed = with(
        manifest(),
        "/config/mediaType",
        "application/vnd.oci.empty.v1+json".into(),
    );
    let error = parse(&with(typed, "/artifactType", "text/spdx".into())).unwrap_err();
    assert!(
        error.why.starts_with("is an artifact (text/spdx)"),
        "{error}"
    );
    assert_eq!(error.reason, crate::base::error::Reason::Policy);
}

#[test]
fn a_layer_of_an_unknown_type_is_refused() {
    let document = with(
        manifest(),
        "/layers/0/mediaType",
        "application/vnd.in-toto+json".into(),
    );
    refused(&document, "has a type that imrun does not support");
}

#[test]
fn a_foreign_layer_is_read_like_any_other_and_its_urls_are_ignored() {
    for kind in [
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ] {
        assert_eq!(LayerKind::of(kind), Some(LayerKind::Compressed));
        let document = with(manifest(), "/layers/0/mediaType", kind.into());
        let document = with(
            document,
            "/layers/0/urls",
            json!(["https://elsewhere.example/layer"]),
        );
        assert!(parse(&document).is_ok());
    }
}

#[test]
fn a_schema_version_other_than_2_is_refused() {
    for version in [json!(3), json!("2"), json!(2.0), json!(-2)] {
        refused(
            &with(manifest(), "/schemaVersion", version),
            "`schemaVersion` must be 2",
        );
    }
    refused(
        &without(manifest(), "schemaVersion"),
        "lacks \"schemaVersion\"",
    );
}

#[test]
fn docker_schema_1_is_refused_with_a_hint() {
    let v1 = json!({"schemaVersion": 1, "name": "a", "tag": "b", "fsLayers": [], "history": []});
    let typed = with(
        manifest(),
        "/mediaType",
        "application/vnd.docker.distribution.manifest.v1+prettyjws".into(),
    );
    for document in [v1, with(manifest(), "/fsLayers", json!([])), typed] {
        let error = parse(&document).unwrap_err();
        assert!(
            error.why.starts_with("is a Docker schema 1 manifest"),
            "{error}"
        );
        assert!(error.hint.unwrap().contains("push the image again"));
    }
}

#[test]
fn a_document_that_is_not_an_object_or_too_large_is_refused() {
    for text in ["[]", "2", "null", "\"x\""] {
        let error = Document::parse("doc", text.as_bytes(), None).unwrap_err();
        assert_eq!(error.why, "is not an object");
    }
    let error = Document::parse("doc", &vec![b' '; MAX_DOCUMENT + 1], None).unwrap_err();
    assert!(error.why.contains("the maximum is 4194304"), "{error}");
}

#[test]
fn a_blob_whose_size_differs_from_its_descriptor_is_refused() {
    let Document::Manifest(manifest) = parse(&manifest()).unwrap() else {
        unreachable!()
    };
    assert!(manifest.config.expect_size("config", 7).is_ok());
    let error = manifest.config.expect_size("config", 8).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("config {DIGEST}: has 8 bytes, but its descriptor says 7")
    );
}

fn parse_config(document: &Value) -> Result<Config> {
    Config::parse("config", document.to_string().as_bytes(), 1)
}

#[test]
fn a_config_is_read_in_full() {
    let mut document = config();
    document["created"] = "2026-01-01T00:00:00Z".into();
    document["config"] = json!({
        "Env": ["A=b"], "Entrypoint": ["/a", "b"], "Cmd": ["c"], "User": "1:2", "WorkingDir": "/w",
        "Labels": {"k": "v"}, "StopSignal": "SIGINT", "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/v": {}},
        "Healthcheck": {"Test": ["NONE"]},
    });
    let config = parse_config(&document).unwrap();
    assert_eq!(config.platform.to_string(), "linux/amd64");
    assert_eq!(config.diff_ids[0].to_string(), DIGEST);
    assert_eq!(
        (config.env, config.entrypoint, config.cmd),
        (texts(&["A=b"]), texts(&["/a", "b"]), texts(&["c"]))
    );
    assert_eq!(
        (config.user.as_deref(), config.working_dir.as_deref()),
        (Some("1:2"), Some("/w"))
    );
    assert_eq!(
        (config.labels["k"].as_str(), config.stop_signal.as_deref()),
        ("v", Some("SIGINT"))
    );
    assert_eq!(
        (config.exposed_ports, config.volumes),
        (texts(&["80/tcp"]), texts(&["/v"]))
    );
    assert!(config.healthcheck);
    assert_eq!(config.created.as_deref(), Some("2026-01-01T00:00:00Z"));
}

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

#[test]
fn nulls_and_empty_strings_in_a_docker_config_are_absent() {
    let mut document = config();
    document["created"] = Value::Null;
    document["config"] = json!({
        "Env": null, "Entrypoint": null, "Cmd": null, "User": "", "WorkingDir": "", "Labels": null,
        "StopSignal": null, "ExposedPorts": null, "Volumes": null, "Healthcheck": null,
    });
    assert_eq!(
        parse_config(&document).unwrap(),
        parse_config(&config()).unwrap()
    );
    document["config"] = Value::Null;
    assert_eq!(
        parse_config(&document).unwrap(),
        parse_config(&config()).unwrap()
    );
}

#[test]
fn an_image_of_another_operating_system_is_refused() {
    let error = parse_config(&with(config(), "/os", "windows".into())).unwrap_err();
    assert_eq!(
        error.why,
        "is an image for windows/amd64; imrun runs only linux images"
    );
    assert_eq!(error.reason, crate::base::error::Reason::Unsupported);
}

#[test]
fn an_image_of_another_architecture_is_refused_when_the_platform_is_checked() {
    let config = parse_config(&with(config(), "/architecture", "s390x".into())).unwrap();
    assert!(
        config
            .expect_platform("image", &"linux/s390x".parse().unwrap())
            .is_ok()
    );
    let error = config
        .expect_platform("image", &"linux/amd64".parse().unwrap())
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "image: is an image for linux/s390x, not for linux/amd64"
    );
}

#[test]
fn a_config_without_a_platform_matches_the_wanted_one() {
    let wanted = "linux/arm/v6".parse().unwrap();
    for (member, value, unnamed) in [
        ("/os", "", Some("`os`")),
        ("/architecture", "", Some("`architecture`")),
        // An arm config without a variant may be for any.
        ("/architecture", "arm", None),
    ] {
        let document = with(
            with(config(), "/architecture", "arm".into()),
            member,
            value.into(),
        );
        let config = parse_config(&document).unwrap();
        assert!(
            config.expect_platform("image", &wanted).is_ok(),
            "{member} {value:?}"
        );
        assert_eq!(config.unnamed(), unnamed);
    }
    let bare = without(without(config(), "os"), "architecture");
    let config = parse_config(&bare).unwrap();
    assert_eq!(config.unnamed(), Some("`os` and `architecture`"));
    assert!(config.expect_platform("image", &wanted).is_ok());
}

#[test]
fn an_arm_config_that_names_a_later_variant_is_refused() {
    let document = with(
        with(config(), "/architecture", "arm".into()),
        "/variant",
        "v7".into(),
    );
    let config = parse_config(&document).unwrap();
    for (wanted, taken) in [
        ("linux/arm/v6", false),
        ("linux/arm/v7", true),
        ("linux/arm/v8", true),
    ] {
        let outcome = config.expect_platform("image", &wanted.parse().unwrap());
        assert_eq!(outcome.is_ok(), taken, "{wanted}");
    }
}

#[test]
fn an_entrypoint_of_one_empty_string_counts_as_none() {
    let entrypoint = |words: Value| {
        let document = with(
            config(),
            "/config",
            json!({"Entrypoint": words, "Cmd": ["c"]}),
        );
        parse_config(&document).unwrap().entrypoint
    };
    assert!(entrypoint(json!([""])).is_empty());
    assert_eq!(entrypoint(json!(["", "a"])), ["", "a"]);
}

#[test]
fn diff_ids_that_differ_in_number_from_the_layers_are_refused() {
    for ids in [json!([]), json!([DIGEST, OTHER]), Value::Null] {
        let error = parse_config(&with(config(), "/rootfs/diff_ids", ids)).unwrap_err();
        assert!(
            error
                .why
                .ends_with("diff_ids, but its manifest has 1 layers"),
            "{error}"
        );
    }
}

#[test]
fn configs_of_the_wrong_shape_are_refused_and_the_member_is_named() {
    for (pointer, value, because) in [
        ("/rootfs", Value::Null, "lacks \"rootfs\""),
        (
            "/rootfs/type",
            json!("squashfs"),
            "`rootfs` has a `type` other than \"layers\"",
        ),
        (
            "/rootfs/diff_ids/0",
            json!("sha256:00"),
            "`rootfs.diff_ids[0]` is \"sha256:00\"",
        ),
        ("/os", json!(1), "`os` is not a string"),
        ("/architecture", json!(1), "`architecture` is not a string"),
        ("/config", json!([]), "`config` is not an object"),
        (
            "/config",
            json!({"Entrypoint": "sh"}),
            "`config.Entrypoint` is not an array",
        ),
        (
            "/config",
            json!({"Env": [1]}),
            "`config.Env[0]` is not a string",
        ),
        (
            "/config",
            json!({"Labels": {"a": 1}}),
            "`config.Labels.a` is not a string",
        ),
    ] {
        let error = parse_config(&with(config(), pointer, value)).unwrap_err();
        assert!(error.why.contains(because), "{error}");
    }
}

/// Generates JSON that is similar enough to a document to pass the first checks.
fn nearly_a_document() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::from),
        prop::sample::select(vec![
            DIGEST,
            OCI_MANIFEST,
            OCI_INDEX,
            OCI_CONFIG,
            GZIP,
            "linux",
            ""
        ])
        .prop_map(Value::from),
        Just(json!(2)),
        Just(descriptor(OCI_CONFIG)),
    ];
    let keys = prop::sample::select(vec![
        "schemaVersion",
        "mediaType",
        "config",
        "layers",
        "manifests",
        "digest",
        "size",
        "platform",
        "os",
        "architecture",
        "variant",
        "rootfs",
        "type",
        "diff_ids",
        "Env",
        "Labels",
        "annotations",
        "Config",
        "RepoTags",
        "Layers",
    ]);
    leaf.prop_recursive(4, 32, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(keys.clone(), inner, 0..6).prop_map(|map| map
                .into_iter()
                .map(|(key, value)| (key.to_string(), value))
                .collect()),
        ]
    })
}

fn read_everything(bytes: &[u8]) {
    if let Ok(Document::Index(index)) = Document::parse("doc", bytes, None) {
        let _ = index.select(&Platform::host());
        let _ = index.chosen(&Choice::Only);
    }
    let _ = Config::parse("doc", bytes, 1);
    let _ = layout::check("doc", bytes);
    if let Ok(entries) = archive::parse("doc", bytes) {
        let _ = archive::select("doc", &entries, &Choice::Only);
    }
}

proptest! {
    #[test]
    fn arbitrary_documents_never_panic(document in nearly_a_document(), bytes: Vec<u8>) {
        read_everything(&bytes);
        read_everything(document.to_string().as_bytes());
    }

    #[test]
    fn arbitrary_platforms_never_panic(text in "\\PC{0,20}", architecture in "amd64|arm|arm64|x", variant in "v?[0-9.]{0,12}") {
        let _ = text.parse::<Platform>();
        let one = Platform::new("linux", &architecture, Some(&variant));
        prop_assert_eq!(one.distance(&one), Some(0));
        let _ = Platform::host().distance(&one);
    }
}
