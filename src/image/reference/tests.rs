use super::*;
use proptest::prelude::*;

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[test]
fn names_are_normalised_as_docker_does() {
    for (text, normal) in [
        ("redis", "docker.io/library/redis"),
        ("redis:7", "docker.io/library/redis:7"),
        ("docker.io/redis", "docker.io/library/redis"),
        ("index.docker.io/redis:7", "docker.io/library/redis:7"),
        ("index.docker.io/me/app", "docker.io/me/app"),
        ("docker.io/library/redis", "docker.io/library/redis"),
        ("me/app", "docker.io/me/app"),
        ("me/app:V1.0-rc_1", "docker.io/me/app:V1.0-rc_1"),
        ("localhost/app", "localhost/app"),
        ("localhost:5000/a/b/c", "localhost:5000/a/b/c"),
        ("localhost:5000", "docker.io/library/localhost:5000"),
        ("r.example/app:1", "r.example/app:1"),
        ("r.example:443/app", "r.example:443/app"),
        ("127.0.0.1:5000/app", "127.0.0.1:5000/app"),
        ("[::1]:5000/app", "[::1]:5000/app"),
        ("[::1]/app", "[::1]/app"),
        ("HOST/app", "HOST/app"),
        ("a__b/c--d.e_f", "docker.io/a__b/c--d.e_f"),
    ] {
        let reference: Reference = text.parse().unwrap();
        assert_eq!(reference.to_string(), normal);
        let pinned: Reference = format!("{text}@{DIGEST}").parse().unwrap();
        assert_eq!(pinned.to_string(), format!("{normal}@{DIGEST}"));
        assert_eq!(pinned.name(), reference.name());
    }
}

#[test]
fn text_that_is_not_a_name_is_refused() {
    for text in [
        "",
        ":",
        "@",
        "/",
        "a/",
        "/a",
        "a//b",
        "A",
        "me/App",
        "a:",
        "a:-b",
        "a: b",
        "a:b:c",
        "a b",
        "a@",
        "a@b",
        "a@sha256:00",
        "-a",
        "a-",
        "a..b",
        "a___b",
        "a._b",
        "r.example:x/a",
        "r.example:99999/a",
        "r.example:+1/a",
        "r.example:/a",
        ".example/a",
        "-x.example/a",
        "[::1/a",
        "[x]/a",
        "r.example/",
        "\u{e9}",
        "a\n",
        "a\0",
        "https://r.example/a",
        "../a",
        "a/../b",
    ] {
        assert!(text.parse::<Reference>().is_err(), "{text:?} was taken");
    }
    assert!(
        format!("a:{}", "b".repeat(128))
            .parse::<Reference>()
            .is_ok()
    );
    assert!(
        format!("a:{}", "b".repeat(129))
            .parse::<Reference>()
            .is_err()
    );
    assert!(
        format!("r.example/{}", "b".repeat(245))
            .parse::<Reference>()
            .is_ok()
    );
    assert!(
        format!("r.example/{}", "b".repeat(246))
            .parse::<Reference>()
            .is_err()
    );
}

#[test]
fn an_error_names_the_part_that_is_wrong() {
    for (text, why) in [
        ("Redis", "the repository must be in lower case"),
        ("a@md5:00", "the algorithm is neither sha256 nor sha512"),
        (
            "a:",
            "the tag must be 1 to 128 letters, digits, `_`, `.` or `-`",
        ),
        (
            "r.example:x/a",
            "\"r.example:x\" is not a registry: expected HOST[:PORT]",
        ),
    ] {
        let error = text.parse::<Reference>().unwrap_err();
        assert_eq!(error.to_string(), format!("image name {text:?}: {why}"));
    }
}

#[test]
fn a_digest_is_recognised_and_an_incomplete_one_is_not_a_name() {
    let argument: ImageArgument = DIGEST.parse().unwrap();
    assert_eq!(argument, ImageArgument::Digest(DIGEST.parse().unwrap()));
    for wrong in [
        &DIGEST[..20],
        &DIGEST.to_uppercase(),
        "sha256:",
        "sha512:00",
    ] {
        assert!(
            wrong.parse::<ImageArgument>().is_err(),
            "{wrong:?} was taken"
        );
    }
    let error = DIGEST["sha256:".len()..]
        .parse::<ImageArgument>()
        .unwrap_err();
    assert_eq!(error.hint.as_deref(), Some(DIGEST));
}

#[test]
fn a_name_has_a_digest_only_if_one_is_given() {
    let tagged: ImageArgument = "redis:7".parse().unwrap();
    assert_eq!(tagged.digest(), None);
    let pinned: ImageArgument = format!("redis:7@{DIGEST}").parse().unwrap();
    assert_eq!(pinned.digest(), Some(DIGEST.parse().unwrap()));
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,60}", close in "[a-zA-Z0-9./:@_\\[\\]-]{0,40}") {
        let _ = text.parse::<ImageArgument>();
        let _ = close.parse::<ImageArgument>();
    }

    #[test]
    fn normalising_twice_changes_nothing(text in "[a-z0-9A.]{1,6}(:[0-9]{1,4})?(/[a-z0-9._-]{1,6}){0,2}(:[a-zA-Z0-9._-]{1,4})?") {
        if let Ok(reference) = text.parse::<Reference>() {
            prop_assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference);
        }
    }
}
