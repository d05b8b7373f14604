//! What the owner of this device consents to: which kinds of jobs, whose, on which data, with which models. Decides and touches nothing.
//!
//! What is not said is allowed: a list that is absent under `allow` allows all. A list that is there allows what it names and nothing
//! else, so an empty one allows nothing. What stands under `deny` is never taken. `members` and `groups` are one question, whose job it
//! is: who stands in either is named. A group is the owner's own name for several members.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use bus_schemas::job::{DataClass, KINDS};
use bus_schemas::offer::Decline;
use bus_schemas::{Code, MemberId, Problem};
use serde::{Deserialize, Serialize};

/// The whole of it, as it stands in `consent.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Consent {
    /// What runs is handed back as well once it is no longer allowed; otherwise it ends here.
    pub stop_running: bool,
    pub allow: Lists,
    pub deny: Lists,
    pub groups: BTreeMap<Name, BTreeSet<Who>>,
}

/// What is named, by what it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lists {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kinds: Option<BTreeSet<Kind>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub members: Option<BTreeSet<Who>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<BTreeSet<Name>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_classes: Option<BTreeSet<DataClass>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub models: Option<BTreeSet<Sha256>>,
}

/// What a list is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Kind,
    Member,
    Group,
    DataClass,
    Model,
}
impl What {
    pub const ALL: [Self; 5] = [Self::Kind, Self::Member, Self::Group, Self::DataClass, Self::Model];
}

/// A job as far as consent goes.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    pub kind: &'a str,
    pub member: MemberId,
    pub data_class: DataClass,
    /// SHA-256 of the weights that it would be computed with, in lower-case hex.
    pub model: Option<&'a str>,
}

impl Consent {
    /// Whether a job is allowed; `owner` is the member whose device this is.
    ///
    /// # Errors
    /// [`Decline::NotAllowed`] with everything that is not allowed about it.
    pub fn check(&self, owner: &MemberId, asked: &Asked<'_>) -> Result<(), Decline> {
        let model = asked.model.is_none_or(|model| {
            let is = |set: &BTreeSet<Sha256>| set.iter().any(|hash| hash.0 == model);
            allowed(&self.allow.models, &self.deny.models, is)
        });
        let against = [
            (!self.allows_kind(asked.kind), format!("kind {}", asked.kind)),
            (!self.allows_member(owner, &asked.member), format!("jobs of {}", asked.member)),
            (
                !allowed(&self.allow.data_classes, &self.deny.data_classes, |set| set.contains(&asked.data_class)),
                format!("data class {}", asked.data_class),
            ),
            (!model, format!("model {}", asked.model.unwrap_or_default())),
        ];
        let against: Vec<String> = against.into_iter().filter(|(is, _)| *is).map(|(_, what)| what).collect();
        if against.is_empty() { Ok(()) } else { Err(Decline::NotAllowed(against.join("; "))) }
    }

    /// Whether jobs of this kind are taken at all.
    pub fn allows_kind(&self, kind: &str) -> bool {
        allowed(&self.allow.kinds, &self.deny.kinds, |set| set.iter().any(|named| named.0 == kind))
    }

    fn allows_member(&self, owner: &MemberId, member: &MemberId) -> bool {
        let is = |who: &Who| match who {
            Who::Me => owner == member,
            Who::Member(named) => named == member,
        };
        let named = |lists: &Lists| {
            let in_group = |name: &Name| self.groups.get(name).is_some_and(|group| group.iter().any(is));
            lists.members.iter().flatten().any(is) || lists.groups.iter().flatten().any(in_group)
        };
        let asks = self.allow.members.is_some() || self.allow.groups.is_some();
        (!asks || named(&self.allow)) && !named(&self.deny)
    }

    /// Checks what no single line shows.
    ///
    /// # Errors
    /// [`Code::BadValue`], and the words that are wrong.
    pub fn whole(&self) -> Result<(), (Problem, String)> {
        let named = self.allow.groups.iter().chain(&self.deny.groups).flatten();
        match named.into_iter().find(|name| !self.groups.contains_key(*name)) {
            Some(name) => Err((Problem::new(Code::BadValue, format!("the group {name} is not under [groups]")), name.0.clone())),
            None => Ok(()),
        }
    }

    /// Takes these too: they are denied no more, and stand in the list of what is allowed, where there is one.
    ///
    /// # Errors
    /// [`Code::BadValue`] where one is nothing of that sort.
    pub fn allow(&mut self, what: What, names: &[String]) -> Result<(), Problem> {
        // Where either says who may, the other one would otherwise say nothing.
        let asks_who = self.allow.members.is_some() || self.allow.groups.is_some();
        for name in names {
            self.deny.change(what, name, Change::Remove)?;
            let opens = asks_who && matches!(what, What::Member | What::Group);
            self.allow.change(what, name, if opens { Change::Insert } else { Change::InsertWhereListed })?;
        }
        self.deny.tidy();
        self.known()
    }
    /// Takes these no more, whatever else is allowed.
    ///
    /// # Errors
    /// As [`Self::allow`].
    pub fn deny(&mut self, what: What, names: &[String]) -> Result<(), Problem> {
        for name in names {
            self.allow.change(what, name, Change::Remove)?;
            self.deny.change(what, name, Change::Insert)?;
        }
        self.known()
    }
    /// Takes these and no others.
    ///
    /// # Errors
    /// As [`Self::allow`].
    pub fn only(&mut self, what: What, names: &[String]) -> Result<(), Problem> {
        self.any(what);
        for name in names {
            self.allow.change(what, name, Change::Insert)?;
        }
        self.known()
    }
    /// Takes all of these.
    pub fn any(&mut self, what: What) {
        self.allow.clear(what);
        self.deny.clear(what);
    }
    /// Takes nothing until that is changed.
    pub fn nothing() -> Self {
        let allow = Lists { kinds: Some(BTreeSet::new()), ..Lists::default() };
        Self { allow, ..Self::default() }
    }
    /// Whether no job of any kind that this version knows is allowed.
    pub fn takes_nothing(&self) -> bool {
        let nobody = |set: &Option<BTreeSet<Who>>| set.as_ref().is_none_or(BTreeSet::is_empty);
        let nobody = self.allow.members.is_some() && nobody(&self.allow.members) && self.allow.groups.is_none();
        nobody || !KINDS.iter().any(|kind| self.allows_kind(kind)) || self.allow.data_classes.as_ref().is_some_and(BTreeSet::is_empty)
    }
    /// Names several members; none: the group is gone, and with it every mention of it.
    ///
    /// # Errors
    /// [`Code::BadValue`].
    pub fn group(&mut self, name: &str, members: &[String]) -> Result<(), Problem> {
        let name: Name = name.parse()?;
        if members.is_empty() {
            self.groups.remove(&name);
            for lists in [&mut self.allow, &mut self.deny] {
                // An emptied list of what is allowed stays, and allows nobody: taking a name away lets nobody in.
                lists.groups.iter_mut().for_each(|groups| {
                    groups.remove(&name);
                });
            }
            self.deny.tidy();
            return Ok(());
        }
        let members: Result<BTreeSet<Who>, Problem> = members.iter().map(|member| member.parse()).collect();
        self.groups.insert(name, members?);
        Ok(())
    }
    fn known(&self) -> Result<(), Problem> {
        self.whole().map_err(|(problem, _)| problem)
    }
}

fn allowed<T>(allow: &Option<BTreeSet<T>>, deny: &Option<BTreeSet<T>>, is: impl Fn(&BTreeSet<T>) -> bool) -> bool {
    allow.as_ref().is_none_or(&is) && !deny.as_ref().is_some_and(&is)
}

#[derive(Clone, Copy)]
enum Change {
    Insert,
    /// Nothing where there is no list: all are allowed already.
    InsertWhereListed,
    Remove,
}
fn change<T: Ord + FromStr<Err = Problem>>(list: &mut Option<BTreeSet<T>>, name: &str, change: Change) -> Result<(), Problem> {
    let name: T = name.parse()?;
    match (change, list) {
        (Change::Insert, list) => {
            list.get_or_insert_default().insert(name);
        }
        (Change::InsertWhereListed, Some(list)) => {
            list.insert(name);
        }
        (Change::Remove, Some(list)) => {
            list.remove(&name);
        }
        (Change::InsertWhereListed | Change::Remove, None) => {}
    }
    Ok(())
}

impl Lists {
    fn change(&mut self, what: What, name: &str, how: Change) -> Result<(), Problem> {
        match what {
            What::Kind => change(&mut self.kinds, name, how),
            What::Member => change(&mut self.members, name, how),
            What::Group => change(&mut self.groups, name, how),
            What::DataClass => change(&mut self.data_classes, name, how),
            What::Model => change(&mut self.models, name, how),
        }
    }
    fn clear(&mut self, what: What) {
        match what {
            What::Kind => self.kinds = None,
            What::Member => self.members = None,
            What::Group => self.groups = None,
            What::DataClass => self.data_classes = None,
            What::Model => self.models = None,
        }
    }
    /// Of what is denied, a list without a name says nothing.
    fn tidy(&mut self) {
        self.kinds.take_if(|list| list.is_empty());
        self.members.take_if(|list| list.is_empty());
        self.groups.take_if(|list| list.is_empty());
        self.data_classes.take_if(|list| list.is_empty());
        self.models.take_if(|list| list.is_empty());
    }
    /// What is named, as text; `None` where there is no list.
    pub fn named(&self, what: What) -> Option<Vec<String>> {
        fn texts<T: ToString>(list: &Option<BTreeSet<T>>) -> Option<Vec<String>> {
            list.as_ref().map(|list| list.iter().map(T::to_string).collect())
        }
        match what {
            What::Kind => texts(&self.kinds),
            What::Member => texts(&self.members),
            What::Group => texts(&self.groups),
            What::DataClass => texts(&self.data_classes),
            What::Model => texts(&self.models),
        }
    }
}

/// A text of one sort; another one is refused, so that a typo is no rule.
macro_rules! text {
    ($name:ident, $doc:literal, $check:expr) => {
        #[doc = $doc]
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);
        impl FromStr for $name {
            type Err = Problem;

            fn from_str(text: &str) -> Result<Self, Problem> {
                let check: fn(&str) -> Result<(), String> = $check;
                let shown: String = text.chars().filter(|c| !c.is_control()).take(70).collect();
                check(text).map(|()| Self(text.to_owned())).map_err(|why| Problem::new(Code::BadValue, format!("\"{shown}\" {why}")))
            }
        }
        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                text.parse().map_err(|problem: Problem| problem.detail)
            }
        }
        impl From<$name> for String {
            fn from(text: $name) -> Self {
                text.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}
text!(Kind, "A kind of job that this version knows.", |text| {
    if KINDS.contains(&text) { Ok(()) } else { Err(format!("is no kind of job: {}", KINDS.join(", "))) }
});
text!(Name, "The owner's name for several members.", |text| {
    let fine = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | ' ');
    let is_name = !text.trim().is_empty() && text.chars().count() <= 64 && text.chars().all(fine);
    if is_name { Ok(()) } else { Err("is no name of a group: 1 to 64 letters, digits, blanks, - and _".to_owned()) }
});
text!(Sha256, "SHA-256 in lower-case hex.", |text| {
    let is_hash = text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if is_hash { Ok(()) } else { Err("is no SHA-256 of a model: 64 digits of lower-case hex".to_owned()) }
});

/// A member, or the one whose device this is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Who {
    Me,
    Member(MemberId),
}
impl FromStr for Who {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        if text == "me" {
            return Ok(Self::Me);
        }
        let shown: String = text.chars().filter(|c| !c.is_control()).take(70).collect();
        let id = text.parse().map_err(|_| Problem::new(Code::BadValue, format!("\"{shown}\" is no member: mem_… or me")));
        id.map(Self::Member)
    }
}
impl TryFrom<String> for Who {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map_err(|problem: Problem| problem.detail)
    }
}
impl From<Who> for String {
    fn from(who: Who) -> Self {
        who.to_string()
    }
}
impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Me => f.write_str("me"),
            Self::Member(id) => id.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests;
