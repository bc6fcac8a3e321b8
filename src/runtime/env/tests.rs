use super::*;
use proptest::prelude::*;

/// Caller's environment in all tests.
fn caller(name: &OsStr) -> Option<OsString> {
    (name == "CALLER").then(|| "from-caller".into())
}

fn listed(environment: &Environment) -> Vec<String> {
    let strings = environment.to_strings().into_iter();
    strings.map(|entry| entry.into_string().unwrap()).collect()
}

fn of_file(text: &str) -> Result<Environment> {
    let mut environment = Environment::new();
    environment.add_file("f.env", text.as_bytes(), caller)?;
    Ok(environment)
}

#[test]
fn the_argument_wins_over_the_file_and_the_file_over_the_image() {
    let mut environment = Environment::new();
    environment
        .add_image(&[
            "A=image".into(),
            "B=image".into(),
            "C=image".into(),
            "A=image2".into(),
        ])
        .unwrap();
    environment
        .add_file("f", b"B=file\nC=file\nD=file", caller)
        .unwrap();
    environment
        .add_argument("C=argument".as_ref(), caller)
        .unwrap();
    assert_eq!(
        listed(&environment),
        ["A=image2", "B=file", "C=argument", "D=file"]
    );
    assert_eq!(environment.get("C"), Some(OsStr::new("argument")));
    assert_eq!(environment.get("E"), None);
}

#[test]
fn an_env_file_is_read_as_docker_reads_it() {
    for (text, expected) in [
        ("", &[][..]),
        ("A=b", &["A=b"]),
        ("A=b\nC=d\n", &["A=b", "C=d"]),
        ("A=b\r\nC=d\r\n", &["A=b", "C=d"]),
        ("\u{feff}A=b", &["A=b"]),
        (
            "# comment\n \t# comment\n\n   \nA=b # no comment",
            &["A=b # no comment"],
        ),
        ("A=\"b c\"\nB='x'", &["A=\"b c\"", "B='x'"]),
        ("  A=  b  ", &["A=  b  "]),
        ("A=b=c", &["A=b=c"]),
        ("A=", &["A="]),
        ("A=$B\\n", &["A=$B\\n"]),
        ("CALLER", &["CALLER=from-caller"]),
        ("ABSENT\nA=b", &["A=b"]),
        ("A=1\nB=2\nA=3", &["A=3", "B=2"]),
        ("a-b.c=1", &["a-b.c=1"]),
    ] {
        assert_eq!(listed(&of_file(text).unwrap()), expected, "{text:?}");
    }
}

#[test]
fn an_error_in_an_env_file_names_the_file_and_the_line_but_not_the_value() {
    for (text, expected) in [
        ("A=b\n=secret", "f.env, line 2: a variable has no name"),
        (
            "export A=secret",
            "f.env, line 1: the name contains white space",
        ),
        (
            "\n\nA =secret",
            "f.env, line 3: the name contains white space",
        ),
        (
            "A=secret\0",
            "f.env, line 1, variable A: the value contains a NUL byte",
        ),
        (
            "A\0B=secret",
            "f.env, line 1, variable A\\u{0}B: a name contains neither `=` nor NUL",
        ),
    ] {
        assert_eq!(of_file(text).unwrap_err().to_string(), expected);
    }
}

#[test]
fn an_argument_without_a_value_takes_the_callers_or_is_left_out() {
    let mut environment = Environment::new();
    environment.add_argument("CALLER".as_ref(), caller).unwrap();
    environment.add_argument("ABSENT".as_ref(), caller).unwrap();
    assert_eq!(listed(&environment), ["CALLER=from-caller"]);
    for wrong in ["", "=x"] {
        let error = environment
            .add_argument(wrong.as_ref(), caller)
            .unwrap_err();
        assert_eq!(error.to_string(), "--env: a variable has no name");
    }
}

#[test]
fn bytes_that_are_not_utf_8_pass_unchanged() {
    let mut environment = Environment::new();
    environment
        .add_argument(OsStr::from_bytes(b"A=\xff\xfe"), caller)
        .unwrap();
    assert_eq!(environment.to_strings()[0].as_bytes(), b"A=\xff\xfe");
}

#[test]
fn an_image_entry_without_a_value_is_refused_by_its_place() {
    let error = Environment::new()
        .add_image(&["A=b".into(), "SECRET".into()])
        .unwrap_err();
    assert_eq!(error.to_string(), "image environment, entry 2: has no `=`");
}

#[test]
fn an_entry_over_the_kernels_limit_is_refused_by_name_and_one_at_the_limit_is_accepted() {
    let mut environment = Environment::new();
    let longest = "x".repeat(MAX_ENTRY - "A=".len());
    environment
        .set("t", "A".as_ref(), longest.as_ref())
        .unwrap();
    let error = environment
        .set("t", "AB".as_ref(), longest.as_ref())
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "t, variable AB: is 131072 bytes long with its name, the kernel's limit is 131071"
    );
}

#[test]
fn arguments_and_environment_over_the_kernels_total_are_refused() {
    let mut environment = Environment::new();
    let value = "x".repeat(100_000);
    for index in 0..20 {
        environment
            .set("t", format!("V{index}").as_ref(), value.as_ref())
            .unwrap();
    }
    assert!(environment.check_size(&["/bin/app", "x"]).is_ok());
    let error = environment.check_size(&[value.as_str()]).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("arguments and environment: are 2100"),
        "{error}"
    );
    let long = "x".repeat(MAX_ENTRY + 1);
    let error = Environment::new()
        .check_size(&["a", long.as_str()])
        .unwrap_err();
    assert!(
        error.to_string().starts_with("argument 1: is longer"),
        "{error}"
    );
}

#[test]
fn debug_output_has_names_and_no_values() {
    assert_eq!(
        format!("{:?}", of_file("A=secret\nB=secret").unwrap()),
        r#"["A", "B"]"#
    );
}

#[test]
fn an_environment_that_meets_the_contract_is_accepted() {
    let label = r#"{"PORT": {"required": true, "pattern": "[0-9]+"}, "OPT": {"pattern": "x|y"}, "S": {"secret": true}}"#;
    let contract = Contract::parse(label).unwrap();
    for text in ["PORT=80", "PORT=80\nOPT=y\nS=anything", "PORT=1\nOTHER=z"] {
        contract.check(&of_file(text).unwrap()).unwrap();
    }
    let secret: Vec<_> = contract
        .requirements()
        .filter(|(_, r)| r.secret)
        .map(|(name, _)| name)
        .collect();
    assert_eq!(secret, ["S"]);
}

#[test]
fn every_missing_or_malformed_variable_is_named_and_no_value() {
    let label = r#"{"A": {"required": true}, "PORT": {"required": true, "pattern": "[0-9]+"}, "Z": {"pattern": "z"}}"#;
    let contract = Contract::parse(label).unwrap();
    let error = contract
        .check(&of_file("PORT=80secret\nZ=").unwrap())
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "environment: A is required; PORT does not match [0-9]+; Z does not match z"
    );
    assert!(!error.hint.unwrap().contains("secret"));
}

#[test]
fn a_pattern_covers_the_whole_value() {
    for (pattern, value, matches) in [
        ("a|b", "a", true),
        ("a|b", "ax", false),
        ("a|b", "xb", false),
        ("a", "a\n", false),
        ("(?m)a", "x\na", false),
        ("(?m)^a$", "a\nb", false),
        ("", "", true),
        ("", "x", false),
        (".*", "\u{e9}", true),
    ] {
        let label = serde_json::json!({"V": {"pattern": pattern}}).to_string();
        let mut environment = Environment::new();
        environment.set("t", "V".as_ref(), value.as_ref()).unwrap();
        let outcome = Contract::parse(&label).unwrap().check(&environment);
        assert_eq!(outcome.is_ok(), matches, "{pattern:?} on {value:?}");
    }
    let mut environment = Environment::new();
    environment
        .set("t", "V".as_ref(), OsStr::from_bytes(b"\xff"))
        .unwrap();
    assert!(
        Contract::parse(r#"{"V": {"pattern": ".*"}}"#)
            .unwrap()
            .check(&environment)
            .is_err()
    );
}

#[test]
fn an_invalid_contract_is_refused() {
    for (label, because) in [
        ("", "not strict JSON"),
        ("[]", "is not an object"),
        (r#"{"A": true}"#, "`A` is not an object"),
        (r#"{"A": {"requird": true}}"#, "`A.requird` is unknown"),
        (
            r#"{"A": {"required": "yes"}}"#,
            "`A.required` is neither true nor false",
        ),
        (
            r#"{"A": {"pattern": "("}}"#,
            "`A.pattern` is not a valid pattern",
        ),
        (
            r#"{"A": {"pattern": "a)|(b"}}"#,
            "`A.pattern` is not a valid pattern",
        ),
        (
            r#"{"A": {"pattern": "a{9}{9}{9}{9}{9}{9}{9}{9}"}}"#,
            "`A.pattern` is not a valid pattern",
        ),
        (r#"{"A": {}, "A": {}}"#, "duplicate key"),
        (r#"{"": {}}"#, "a variable has no name"),
        (r#"{"A=B": {}}"#, "a name contains neither `=` nor NUL"),
    ] {
        let error = Contract::parse(label).unwrap_err();
        assert!(error.why.contains(because), "{label}: {error}");
    }
}

#[test]
fn a_fingerprint_is_the_hmac_of_the_entry() {
    let print = fingerprint(b"key", b"A", b"b");
    // printf A=b | openssl dgst -sha256 -hmac key
    assert_eq!(
        print,
        "f12fba538cf18aed20e11a75682ae5c7f71b38578ee4c32b3b9e1b204815ce6e"
    );
    for other in [
        fingerprint(b"key2", b"A", b"b"),
        fingerprint(b"key", b"A", b"c"),
        fingerprint(b"key", b"B", b"b"),
    ] {
        assert_ne!(print, other);
    }
}

#[test]
fn the_fingerprint_key_is_the_operators_or_derived_from_the_machine_id() {
    assert_eq!(fingerprint_key(Some(b"mine"), b"id").unwrap(), b"mine");
    let derived = fingerprint_key(None, b"id\n").unwrap();
    assert_eq!(
        crate::base::digest::hex(&derived),
        "e2552d33072157497b89c7c19c7efd30e5b782a5464745c4d29b0fbb37a776d0"
    );
    assert_ne!(derived, fingerprint_key(None, b"other").unwrap());
    assert!(fingerprint_key(None, b"\n").is_err());
    assert!(fingerprint_key(Some(b""), b"id").is_err());
}

proptest! {
    #[test]
    fn arbitrary_files_and_labels_never_panic(bytes: Vec<u8>, lines in "([A-C =#\t\r\n\0]{0,12}\n){0,6}", label in "\\PC{0,40}") {
        let mut environment = Environment::new();
        let _ = environment.add_file("f", &bytes, caller);
        let _ = environment.add_file("f", lines.as_bytes(), caller);
        environment.to_strings();
        let _ = Contract::parse(&label);
        let pattern = serde_json::json!({"A": {"pattern": label}}).to_string();
        if let Ok(contract) = Contract::parse(&pattern) {
            let _ = contract.check(&environment);
        }
    }

    #[test]
    fn an_error_never_holds_a_value(name in "[A-Z =\0]{0,4}", prefix in "[ -~]{0,3}") {
        let value = format!("{prefix}hunter2\0");
        if let Err(error) = of_file(&format!("{name}={value}")) {
            let text = format!("{error:?}");
            prop_assert!(!text.contains("hunter2"));
        }
    }
}
