use super::*;
use proptest::prelude::*;

const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\
    # comment:x:1:1::/:\n\
    app:x:1000:1000:App:/home/app:/bin/sh\n\
    app:x:1:1:second:/other:\n\
    1000:x:7:7:a name of digits:/seven:\n\
    short:x:5\n\
    words:x:five:5::/:\n\
    words:x:6:6::/six:\n\
    nohome:x:8:8:::\n\
    far:x:4294967295:1::/:\n\
    fargroup:x:9:4294967295::/:\n";

const GROUP: &[u8] = b"root:x:0:root\n\
    wheel:x:10:root,app\n\
    app:x:1000:\n\
    audio:x:29:app,other\n\
    video:x:x:app\n\
    video:x:44:pulse,app\n\
    1000:x:3:app2\n\
    empty:x:12\n\
    far:x:4294967295:member\n";

fn resolve(user: &str) -> Result<User> {
    User::resolve(user, Some(PASSWD), Some(GROUP))
}

#[test]
fn users_and_groups_are_found_by_name_and_by_number() {
    for (user, uid, gid, groups, home) in [
        ("", 0, 0, &[0, 10][..], Some("/root")),
        ("root", 0, 0, &[0, 10], Some("/root")),
        ("0", 0, 0, &[0, 10], Some("/root")),
        ("app", 1000, 1000, &[10, 29, 44, 1000], Some("/home/app")),
        ("1000", 1000, 1000, &[10, 29, 44, 1000], Some("/home/app")),
        // As Docker reads them: an empty half is what it would be without it.
        ("app:", 1000, 1000, &[10, 29, 44, 1000], Some("/home/app")),
        (":app", 0, 1000, &[1000], Some("/root")),
        (":0", 0, 0, &[0], Some("/root")),
        (":", 0, 0, &[0, 10], Some("/root")),
        ("app:audio", 1000, 29, &[29], Some("/home/app")),
        ("app:5", 1000, 5, &[5], Some("/home/app")),
        ("4242", 4242, 0, &[0], None),
        ("4242:video", 4242, 44, &[44], None),
        ("4242:empty", 4242, 12, &[12], None),
        ("1000680000:65536", 1_000_680_000, 65_536, &[65_536], None),
        ("4294967294", 4_294_967_294, 0, &[0], None),
        ("words", 6, 6, &[6], Some("/six")),
        ("nohome", 8, 8, &[8], None),
        ("007", 7, 7, &[7], Some("/seven")),
    ] {
        let expected = User {
            uid,
            gid,
            groups: groups.to_vec(),
            home: home.map(|home| home.as_bytes().to_vec()),
        };
        assert_eq!(resolve(user).unwrap(), expected, "{user:?}");
    }
}

#[test]
fn a_number_is_never_looked_up_as_a_name() {
    let passwd = b"1001:x:0:0::/root:\n99999:x:0:0::/:\n";
    let user = User::resolve("1001", Some(passwd), None).unwrap();
    assert_eq!((user.uid, user.gid, user.home), (1001, 0, None));
    let far = User::resolve("99999", Some(passwd), None).unwrap();
    assert_eq!((far.uid, far.gid, far.home), (99_999, 0, None));
    let group = b"55:x:0:\n";
    assert_eq!(User::resolve("1:55", None, Some(group)).unwrap().gid, 55);
}

#[test]
fn numbers_that_are_no_ids_are_refused_by_name() {
    for (user, what) in [
        ("4294967295", "user 4294967295"),
        ("4294967296", "user 4294967296"),
        (
            "99999999999999999999999999",
            "user 99999999999999999999999999",
        ),
        ("0:4294967295", "group 4294967295"),
        ("far", "user far"),
        ("fargroup", "the group of user fargroup"),
        ("0:far", "group far"),
    ] {
        let error = resolve(user).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{what}: is beyond 4294967294, the last id of Linux")
        );
    }
    let member = User::resolve("member", Some(b"member:x:1:1::/:"), Some(GROUP));
    assert_eq!(member.unwrap_err().what, "group far");
}

#[test]
fn unknown_names_and_malformed_users_are_refused() {
    for (user, error) in [
        (
            "nobody",
            "user \"nobody\": is not in the image's /etc/passwd",
        ),
        ("short", "user \"short\": is not in the image's /etc/passwd"),
        ("-1", "user \"-1\": is not in the image's /etc/passwd"),
        ("+0", "user \"+0\": is not in the image's /etc/passwd"),
        (" 0", "user \" 0\": is not in the image's /etc/passwd"),
        ("0x0", "user \"0x0\": is not in the image's /etc/passwd"),
        (
            "app:nogroup",
            "group \"nogroup\": is not in the image's /etc/group",
        ),
        ("app:1:2", "group \"1:2\": is not in the image's /etc/group"),
    ] {
        assert_eq!(resolve(user).unwrap_err().to_string(), error);
    }
}

#[test]
fn an_image_without_passwd_and_group_runs_as_any_number() {
    let user = User::resolve("12:34", None, None).unwrap();
    assert_eq!((user.uid, user.gid, user.groups), (12, 34, vec![34]));
    assert_eq!(User::resolve("", None, None).unwrap().uid, 0);
    assert!(User::resolve("root", None, None).is_err());
}

#[test]
fn a_database_without_end_is_refused() {
    let huge = vec![b'\n'; MAX_DATABASE + 1];
    for (passwd, group, path) in [
        (Some(&huge[..]), None, "/etc/passwd"),
        (None, Some(&huge[..]), "/etc/group"),
    ] {
        let error = User::resolve("0", passwd, group).unwrap_err();
        assert_eq!(error.what, format!("{path} of the image"));
    }
}

proptest! {
    #[test]
    fn arbitrary_databases_never_panic(user in "[a-c0-9:]{0,6}", text in "([a-c0-9:,\n]{0,12}:?){0,12}", bytes: Vec<u8>) {
        let _ = User::resolve(&user, Some(text.as_bytes()), Some(&bytes));
        if let Ok(user) = User::resolve(&user, Some(&bytes), Some(text.as_bytes())) {
            prop_assert!(user.uid < NO_ID && user.groups.iter().all(|gid| *gid < NO_ID));
        }
    }
}
