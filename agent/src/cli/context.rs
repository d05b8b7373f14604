//! Contexts: which network, as whom. One JSON file each, in the user's configuration folder; secrets stay in files of their own.

use std::fs;
use std::path::{Path, PathBuf};

use bus_schemas::{Code, DeviceId, MemberId, NetworkId, PublicKey};
use serde::{Deserialize, Serialize};

use super::args::{Cli, ContextCommand};
use super::failure::{Done, End, Failure};
use super::output::{self, Output};

/// What a command needs to know to ask one network as one member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    pub name: String,
    pub network: NetworkId,
    #[serde(default)]
    pub network_name: String,
    /// Addresses of the hub, separated by commas.
    pub nats_url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    pub member: Identity,
    /// Addresses of the gateways, separated by commas.
    pub gateway_url: String,
    /// The signed network document: whose signatures count.
    pub network_file: PathBuf,
    /// Who may read the ledger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auditor: Option<Auditor>,
    /// What lets `nats micro ls` and the like look into CONTROL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<PathBuf>,
    /// The network's own key, where it is at hand: whoever has it is the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_key: Option<PathBuf>,
    /// This machine's device in that network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<Device>,
    /// The home of a member without a device: its login is renewed by the commands that use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<PathBuf>,
    /// Process ids of a local stack, for `mesh bench`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<PathBuf>,
    /// The `mesh dev` that made it; it goes when that ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_by_pid: Option<u32>,
    /// What starts that `mesh dev` again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_again: Option<String>,
    /// It was stopped in order; its process id may be another's by now.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stopped: bool,
}
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub id: MemberId,
    pub did: PublicKey,
    /// NATS credentials.
    pub creds: PathBuf,
    /// Replies arrive under it.
    pub inbox_prefix: String,
    /// Bearer token for HTTP.
    pub token_file: PathBuf,
    /// The identity key: signs jobs. Absent where it lies elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
}
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Auditor {
    pub creds: PathBuf,
    pub inbox_prefix: String,
    pub js_prefix: String,
}
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub id: DeviceId,
    pub home: PathBuf,
}

impl Context {
    /// The fields of a context of the `nats` command (ADR-21) for this member.
    pub fn nats_context(&self) -> serde_json::Value {
        nats_context(&format!("mesh member {}", self.member.id), &self.nats_url, &self.member.creds, &self.member.inbox_prefix)
    }
    /// # Errors
    /// Where the file is missing or no context.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let bad = |why: String| Failure::new(Code::BadFile, format!("{}: {why}", path.display())).next("mesh context ls");
        let text = fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
        serde_json::from_str(&text).map_err(|error| bad(format!("no context of mesh ({error})")))
    }
    /// # Errors
    /// [`Code::NoContext`] where its network was one of this machine that has ended, with what starts it again.
    fn alive(self) -> Result<Self, Failure> {
        if !self.is_stale() {
            return Ok(self);
        }
        let how = if self.stopped { "was stopped" } else { "has ended" };
        let again = self.start_again.unwrap_or_else(|| "mesh dev".to_owned());
        let why = format!("the network of context {} {how}: its mesh dev does not run any more", self.name);
        Err(Failure::new(Code::NoContext, why).next(again).next("mesh context ls"))
    }
    /// # Errors
    /// Where the folder cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), Failure> {
        write_json(path, self)
    }
    /// Made by a `mesh dev` that has ended.
    pub fn is_stale(&self) -> bool {
        self.stopped
            || self.made_by_pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists() && Path::new("/proc/self").exists())
    }
}

/// A context of the `nats` command (ADR-21).
pub fn nats_context(about: &str, url: &str, creds: &Path, inbox_prefix: &str) -> serde_json::Value {
    serde_json::json!({"description": about, "url": url, "creds": creds, "inbox_prefix": inbox_prefix})
}

/// Writes JSON for the owner alone.
///
/// # Errors
/// Where the folder cannot be written.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), Failure> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|error| Failure::ours(error.to_string()))?;
    text.push(b'\n');
    bus::keys::write_secret(path, &text).map_err(|error| Failure::new(Code::BadFile, format!("{error:#}")))
}

/// The contexts of one user.
#[derive(Debug, Clone)]
pub struct Contexts {
    folder: PathBuf,
}

impl Contexts {
    /// `MESH_CONFIG_HOME`, else `$XDG_CONFIG_HOME/mesh`, else `~/.config/mesh`.
    ///
    /// # Errors
    /// Where no home folder is known.
    pub fn of_user() -> Result<Self, Failure> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let folder = set("MESH_CONFIG_HOME")
            .or_else(|| set("XDG_CONFIG_HOME").map(|xdg| xdg.join("mesh")))
            .or_else(|| set("HOME").map(|home| home.join(".config").join("mesh")))
            .ok_or_else(|| Failure::new(Code::BadFile, "no folder for settings: HOME is not set").next("export MESH_CONFIG_HOME=DIR"))?;
        Ok(Self::in_folder(folder))
    }
    pub fn in_folder(folder: PathBuf) -> Self {
        Self { folder }
    }
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join("contexts").join(format!("{name}.json"))
    }
    fn pointer(&self, which: &str) -> PathBuf {
        self.folder.join(which)
    }
    fn read_pointer(&self, which: &str) -> Option<String> {
        fs::read_to_string(self.pointer(which)).ok().map(|name| name.trim().to_owned()).filter(|name| !name.is_empty())
    }
    pub fn current(&self) -> Option<String> {
        self.read_pointer("current")
    }
    /// Names, sorted; contexts of stacks that are gone are left out.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.join("contexts")).into_iter().flatten().flatten();
        let files = entries.filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".json")?.to_owned()));
        let mut names: Vec<String> =
            files.filter(|name| Context::read(&self.path(name)).is_ok_and(|context| !context.is_stale())).collect();
        names.sort();
        names
    }
    /// Makes a context and, where `select`, the current one. The name `wanted` is kept free for the living: where another
    /// running stack has it, a number is added.
    ///
    /// # Errors
    /// Where the folder cannot be written.
    pub fn add(&self, mut context: Context, select: bool) -> Result<String, Failure> {
        let wanted = context.name.clone();
        for n in 1.. {
            context.name = if n == 1 { wanted.clone() } else { format!("{wanted}-{n}") };
            let there = Context::read(&self.path(&context.name));
            if there.is_ok_and(|there| there.made_by_pid.is_some() && !there.is_stale() && there.made_by_pid != context.made_by_pid) {
                continue;
            }
            break;
        }
        make_folder(&self.folder.join("contexts"))?;
        context.write(&self.path(&context.name))?;
        if select && context.name == wanted {
            self.select(&context.name)?;
        }
        Ok(context.name)
    }
    /// # Errors
    /// Where there is no such context, or the folder cannot be written.
    pub fn select(&self, name: &str) -> Result<(), Failure> {
        Context::read(&self.path(name)).map_err(|_| no_such(name, &self.names()))?;
        if let Some(before) = self.current().filter(|before| before != name) {
            bus::keys::write_secret(&self.pointer("previous"), before.as_bytes())?;
        }
        bus::keys::write_secret(&self.pointer("current"), name.as_bytes())?;
        Ok(())
    }
    /// Its `mesh dev` stops. The one before becomes the current one again; where there is none, this stays it, so that commands say what
    /// has ended and what starts it again.
    pub fn stopped(&self, name: &str) {
        let Ok(context) = Context::read(&self.path(name)) else { return };
        let _ = Context { stopped: true, ..context }.write(&self.path(name));
        let lives = |before: &String| Context::read(&self.path(before)).is_ok_and(|before| !before.is_stale());
        let before = self.read_pointer("previous");
        if self.current().as_deref() == Some(name)
            && let Some(before) = before.clone().filter(lives)
        {
            let _ = bus::keys::write_secret(&self.pointer("current"), before.as_bytes());
        }
        if before.as_deref() == Some(name) {
            let _ = fs::remove_file(self.pointer("previous"));
        }
    }
    /// The context a command uses: a file, a name, or the current one.
    ///
    /// # Errors
    /// Where there is none.
    pub fn find(&self, asked: Option<&str>) -> Result<Context, Failure> {
        match asked {
            Some(path) if path.contains('/') || Path::new(path).extension().is_some_and(|ext| ext == "json") => {
                Context::read(Path::new(path))?.alive()
            }
            Some(name) => Context::read(&self.path(name)).map_err(|_| no_such(name, &self.names()))?.alive(),
            None => {
                let name = self.current().ok_or_else(|| {
                    Failure::new(Code::NoContext, "no context is selected").next("mesh dev").next("mesh init --join INVITE")
                })?;
                Context::read(&self.path(&name)).map_err(|_| no_such(&name, &self.names()))?.alive()
            }
        }
    }
}

fn make_folder(path: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| Failure::new(Code::BadFile, format!("{}: {error}", path.display())))
}

fn no_such(name: &str, names: &[String]) -> Failure {
    let known = if names.is_empty() { "there is none".to_owned() } else { format!("there are {}", names.join(", ")) };
    // Where there are others, it is the name that is wrong.
    let code = if names.is_empty() { Code::NoContext } else { Code::NotFound };
    Failure::new(code, format!("no context \"{name}\"; {known}")).next("mesh context ls")
}

#[derive(Serialize)]
struct Listed {
    name: String,
    current: bool,
    network: NetworkId,
    network_name: String,
    member: MemberId,
    nats_url: String,
}
#[derive(Serialize)]
struct List {
    contexts: Vec<Listed>,
}

/// `mesh context`.
pub fn run(cli: &Cli, command: &ContextCommand, output: &Output) -> Done {
    let contexts = Contexts::of_user()?;
    match command {
        ContextCommand::Ls => {
            let current = contexts.current();
            let listed = |name: String| {
                let context = Context::read(&contexts.path(&name)).ok()?;
                let Context { network, network_name, member, nats_url, .. } = context;
                Some(Listed { current: current.as_ref() == Some(&name), name, network, network_name, member: member.id, nats_url })
            };
            let list = List { contexts: contexts.names().into_iter().filter_map(listed).collect() };
            let human = || {
                if list.contexts.is_empty() {
                    return "no contexts; start with: mesh dev, or: mesh init --join INVITE".into();
                }
                let row = |c: &Listed| {
                    [
                        if c.current { "*" } else { "" }.into(),
                        c.name.clone(),
                        c.network_name.clone(),
                        c.member.to_string(),
                        c.nats_url.clone(),
                    ]
                };
                output::table(["", "NAME", "NETWORK", "MEMBER", "HUB"], list.contexts.iter().map(row))
            };
            output.print_list("context.ls", &list, &list.contexts, |context| context.name.clone(), human);
        }
        ContextCommand::Use { name } => {
            let name = match name.as_str() {
                "-" => contexts
                    .read_pointer("previous")
                    .ok_or_else(|| Failure::new(Code::NoContext, "there is no context before this one").next("mesh context ls"))?,
                name => name.to_owned(),
            };
            contexts.select(&name)?;
            let context = contexts.find(Some(&name))?;
            output.print("context.use", &context, || name.clone(), || format!("context: {name}   network: {}", context.network_name));
        }
        ContextCommand::Show { name } => {
            let context = contexts.find(name.as_deref().or(cli.global.context.as_deref()))?;
            let human = || serde_json::to_string_pretty(&context).unwrap_or_default();
            output.print("context.show", &context, || context.name.clone(), human);
        }
    }
    Ok(End::Fine)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample(name: &str, pid: Option<u32>) -> Context {
        let key = bus_schemas::Signer::from_seed(&[1; 32]).public();
        Context {
            name: name.into(),
            network: key.network_id(),
            network_name: "lab".into(),
            nats_url: "nats://127.0.0.1:4222".into(),
            ca: None,
            member: Identity {
                id: key.member_id(),
                did: key,
                creds: "member.creds".into(),
                inbox_prefix: format!("_INBOX.{}", key.member_id()),
                token_file: "token".into(),
                key: None,
            },
            gateway_url: "http://127.0.0.1:8085".into(),
            network_file: "network.json".into(),
            auditor: None,
            operator: None,
            network_key: None,
            device: None,
            processes: None,
            made_by_pid: pid,
            start_again: None,
            home: None,
            stopped: false,
        }
    }
    pub(crate) fn folder() -> PathBuf {
        let folder = std::env::temp_dir().join(format!("mesh-contexts-{}", bus::keys::random_hex::<8>().unwrap()));
        fs::create_dir(&folder).unwrap();
        folder
    }

    #[test]
    fn contexts_come_and_go() {
        let folder = folder();
        let contexts = Contexts::in_folder(folder.clone());
        assert_eq!(contexts.find(None).unwrap_err().code(), Code::NoContext);
        assert_eq!(contexts.find(Some("nope")).unwrap_err().code(), Code::NoContext);
        assert_eq!(contexts.add(sample("lab", None), true).unwrap(), "lab");
        let me = std::process::id();
        assert_eq!(contexts.add(sample("dev", Some(me)), true).unwrap(), "dev");
        assert_eq!(contexts.find(None).unwrap(), sample("dev", Some(me)));
        assert_eq!(contexts.names(), ["dev", "lab"]);
        assert_eq!(contexts.find(Some("lab")).unwrap().name, "lab");
        assert_eq!(contexts.find(Some("nope")).unwrap_err().code(), Code::NotFound, "a network is configured, only not that one");
        assert_eq!(contexts.find(contexts.path("lab").to_str()).unwrap().name, "lab", "a file is a context too");
        // Another stack that runs at the same time takes another name and does not push itself in front.
        assert_eq!(contexts.add(sample("dev", Some(1)), true).unwrap(), "dev-2");
        assert_eq!(contexts.current().as_deref(), Some("dev"));
        contexts.stopped("dev");
        assert_eq!(contexts.current().as_deref(), Some("lab"), "the one before is back");
        let failure = contexts.find(Some("dev")).unwrap_err();
        assert_eq!((failure.code(), failure.next.first().map(String::as_str)), (Code::NoContext, Some("mesh dev")));
        assert_eq!(contexts.add(sample("dev", Some(me)), true).unwrap(), "dev", "the name is free again");
        contexts.find(Some("dev")).unwrap();
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_stack_that_is_gone_leaves_no_context_in_the_way() {
        let folder = folder();
        let contexts = Contexts::in_folder(folder.clone());
        let gone = sample("dev", Some(u32::MAX));
        contexts.add(gone, true).unwrap();
        // Stopped in order, its process id may belong to another by now.
        let (me, again) = (std::process::id(), "mesh dev --data-dir /srv/mesh");
        let ended = Context { start_again: Some(again.into()), ..sample("lab", Some(me)) };
        contexts.add(ended, false).unwrap();
        contexts.find(Some("lab")).unwrap();
        contexts.stopped("lab");
        for asked in ["lab", contexts.path("lab").to_str().unwrap()] {
            let failure = contexts.find(Some(asked)).unwrap_err();
            assert!(failure.problem.detail.contains("lab was stopped"), "{failure:?}");
            assert_eq!(failure.next, [again, "mesh context ls"]);
        }
        let failure = contexts.find(None).unwrap_err();
        assert_eq!((failure.code(), failure.next.first().map(String::as_str)), (Code::NoContext, Some("mesh dev")));
        assert!(contexts.names().is_empty());
        assert_eq!(contexts.add(sample("dev", Some(std::process::id())), true).unwrap(), "dev");
        assert_eq!(contexts.find(None).unwrap().name, "dev");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn the_nats_command_reads_it() {
        let value = sample("dev", None).nats_context();
        for field in ["description", "url", "creds", "inbox_prefix"] {
            assert!(value[field].is_string(), "{field}");
        }
    }
}
