use super::*;
use bus_schemas::Signer;

const MODEL: &str = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db";

fn member(seed: u8) -> MemberId {
    Signer::from_seed(&[seed; 32]).public().member_id()
}
/// `ME`, `A` and `B` stand for members.
fn consent(text: &str) -> Consent {
    let text = text.replace('A', &member(2).to_string()).replace('B', &member(3).to_string()).replace("MODEL", MODEL);
    let consent: Consent = toml::from_str(&text).unwrap();
    consent.whole().unwrap();
    consent
}
/// What is said to a job of this kind, member and class.
fn said(consent: &Consent, kind: &str, who: u8, data_class: DataClass) -> String {
    let model = (kind == "embed").then_some(MODEL);
    let answer = consent.check(&member(1), &Asked { kind, member: member(who), data_class, model });
    answer.map_or_else(|no| no.to_string(), |()| "yes".into())
}

#[test]
fn what_is_not_said_is_allowed_and_deny_wins() {
    use DataClass::{Confidential, Internal, Public, Restricted};
    let other = "0".repeat(64);
    let no = |what: &str| format!("not allowed by its owner: {what}");
    let of_b = no(&format!("jobs of {}", member(3)));
    let cases: [(&str, &str, u8, DataClass, String); 22] = [
        ("", "embed", 3, Restricted, "yes".into()),
        ("[allow]\nkinds = [\"echo\"]", "echo", 3, Internal, "yes".into()),
        ("[allow]\nkinds = [\"echo\"]", "embed", 3, Internal, no("kind embed")),
        ("[allow]\nkinds = []", "echo", 1, Public, no("kind echo")),
        ("[deny]\nkinds = [\"embed\"]", "echo", 3, Internal, "yes".into()),
        ("[deny]\nkinds = [\"embed\"]", "embed", 3, Internal, no("kind embed")),
        ("[allow]\nkinds = [\"echo\"]\n[deny]\nkinds = [\"echo\"]", "echo", 3, Internal, no("kind echo")),
        ("[allow]\nmembers = [\"me\"]", "echo", 1, Internal, "yes".into()),
        ("[allow]\nmembers = [\"me\"]", "echo", 3, Internal, of_b.clone()),
        ("[allow]\nmembers = [\"me\", \"B\"]", "echo", 3, Internal, "yes".into()),
        ("[allow]\ngroups = [\"lab\"]\n[groups]\nlab = [\"A\"]", "echo", 2, Internal, "yes".into()),
        ("[allow]\ngroups = [\"lab\"]\n[groups]\nlab = [\"A\"]", "echo", 3, Internal, of_b.clone()),
        ("[allow]\nmembers = [\"B\"]\ngroups = [\"lab\"]\n[groups]\nlab = [\"A\"]", "echo", 3, Internal, "yes".into()),
        ("[allow]\ngroups = [\"lab\"]\n[deny]\nmembers = [\"B\"]\n[groups]\nlab = [\"A\", \"B\"]", "echo", 3, Internal, of_b.clone()),
        ("[deny]\ngroups = [\"lab\"]\n[groups]\nlab = [\"B\"]", "echo", 3, Internal, of_b),
        ("[deny]\ngroups = [\"lab\"]\n[groups]\nlab = [\"B\"]", "echo", 2, Internal, "yes".into()),
        ("[allow]\ndata_classes = [\"public\", \"internal\"]", "echo", 3, Internal, "yes".into()),
        ("[allow]\ndata_classes = [\"public\", \"internal\"]", "echo", 3, Confidential, no("data class confidential")),
        ("[deny]\nmodels = [\"MODEL\"]", "embed", 3, Internal, no(&format!("model {MODEL}"))),
        ("[allow]\nmodels = [\"MODEL\"]", "embed", 3, Internal, "yes".into()),
        ("[allow]\nmodels = []", "echo", 3, Internal, "yes".into()),
        ("[allow]\nkinds = [\"echo\"]\ndata_classes = [\"public\"]", "embed", 3, Internal, no("kind embed; data class internal")),
    ];
    for (text, kind, who, class, expected) in cases {
        assert_eq!(said(&consent(text), kind, who, class), expected, "{text}");
    }
    let of_other = consent(&format!("[allow]\nmodels = [\"{other}\"]"));
    assert_eq!(said(&of_other, "embed", 3, Internal), no(&format!("model {MODEL}")));
}

#[test]
fn a_typo_is_no_rule() {
    for (text, said) in [
        ("[alow]\n", "unknown field `alow`"),
        ("[allow]\nkind = [\"echo\"]", "unknown field `kind`"),
        ("[allow]\n\nkinds = [\"ecco\"]", "\"ecco\" is no kind of job: echo, embed"),
        ("[allow]\nmembers = [\"mem_x\"]", "\"mem_x\" is no member: mem_… or me"),
        ("[allow]\ndata_classes = [\"secret\"]", "unknown variant `secret`"),
        ("[allow]\nmodels = [\"sha256:0\"]", "is no SHA-256 of a model"),
        ("[groups]\n\"a/b\" = []", "is no name of a group"),
        ("stop_running = 1", "invalid type"),
        ("[allow\n", "unclosed table"),
    ] {
        let error = toml::from_str::<Consent>(text).unwrap_err().to_string();
        assert!(error.contains(said) && error.contains("line "), "{text}: {error}");
    }
    let unknown: Consent = toml::from_str("[allow]\ngroups = [\"lab\"]").unwrap();
    assert_eq!(unknown.whole().unwrap_err().1, "lab");
}

#[test]
fn commands_change_it_as_they_say() {
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let mut own = Consent::default();
    own.allow(What::Kind, &names(&["echo"])).unwrap();
    assert_eq!(own, Consent::default(), "all are allowed already");
    own.deny(What::Kind, &names(&["echo"])).unwrap();
    assert_eq!((own.allows_kind("echo"), own.allows_kind("embed")), (false, true));
    own.allow(What::Kind, &names(&["echo"])).unwrap();
    assert_eq!(own, Consent::default());
    own.only(What::Kind, &names(&["embed"])).unwrap();
    assert_eq!((own.allows_kind("echo"), own.allows_kind("embed")), (false, true));
    own.allow(What::Kind, &names(&["echo"])).unwrap();
    assert_eq!(own.allow.named(What::Kind), Some(names(&["echo", "embed"])));
    own.deny(What::Kind, &names(&["echo", "embed"])).unwrap();
    assert!(own.takes_nothing());
    own.any(What::Kind);
    assert_eq!(own, Consent::default());

    let a = member(2).to_string();
    assert_eq!(own.only(What::Group, &names(&["lab"])).unwrap_err().code, Code::BadValue);
    let mut own = Consent::default();
    own.group("lab", std::slice::from_ref(&a)).unwrap();
    own.only(What::Group, &names(&["lab"])).unwrap();
    assert_eq!((own.allows_member(&member(1), &member(2)), own.allows_member(&member(1), &member(1))), (true, false));
    own.allow(What::Member, &names(&["me"])).unwrap();
    assert!(own.allows_member(&member(1), &member(1)), "beside the group");
    own.group("lab", &[]).unwrap();
    assert!(!own.allows_member(&member(1), &member(2)) && !own.allows_member(&member(1), &member(3)), "nobody was let in");
    assert!(own.whole().is_ok());

    assert!(Consent::nothing().takes_nothing() && !Consent::default().takes_nothing());
    for (what, name) in [(What::Kind, "ecco"), (What::Member, "you"), (What::DataClass, "x"), (What::Model, "x"), (What::Group, "")] {
        for change in [Consent::allow, Consent::deny, Consent::only] {
            assert_eq!(change(&mut Consent::default(), what, &names(&[name])).unwrap_err().code, Code::BadValue, "{what:?}");
        }
    }
    let text = toml::to_string(&own).unwrap();
    assert_eq!(toml::from_str::<Consent>(&text).unwrap(), own, "{text}");
}
