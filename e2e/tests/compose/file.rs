//! `docker-compose.yml` as types: a field that is not known here, or of another shape, fails the test.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde::de::IgnoredAny;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compose {
    #[serde(rename = "name")]
    _name: String,
    /// What the services share; merged into each where it is named.
    #[serde(rename = "x-service")]
    _shared: IgnoredAny,
    pub services: BTreeMap<String, Service>,
    pub volumes: BTreeMap<String, BTreeMap<String, String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Service {
    pub image: Option<String>,
    pub build: Option<Build>,
    pub command: Vec<String>,
    pub environment: BTreeMap<String, String>,
    pub depends_on: BTreeMap<String, Dependency>,
    pub volumes: Vec<String>,
    pub ports: Vec<String>,
    pub healthcheck: Option<Healthcheck>,
    pub deploy: Deploy,
    pub restart: String,
    pub read_only: bool,
    pub cap_drop: Vec<String>,
    pub security_opt: Vec<String>,
    pub tmpfs: Vec<String>,
    pub stop_grace_period: String,
    pub network_mode: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Build {
    pub context: String,
    /// A stage of the Dockerfile.
    pub target: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dependency {
    pub condition: Condition,
}
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    ServiceHealthy,
    ServiceCompletedSuccessfully,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Healthcheck {
    pub test: Vec<String>,
    #[serde(rename = "interval")]
    _interval: String,
    #[serde(rename = "timeout")]
    _timeout: String,
    #[serde(rename = "retries")]
    _retries: u32,
    #[serde(rename = "start_period")]
    _start_period: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deploy {
    pub replicas: usize,
}
impl Default for Deploy {
    fn default() -> Self {
        Self { replicas: 1 }
    }
}

impl Compose {
    /// Reads the file; `${NAME:-default}` takes its default, as on a machine where nothing is set, and `$$` is a dollar sign.
    ///
    /// # Errors
    /// Where it is no such file, or a service depends on one that is not there.
    pub fn read(text: &str) -> Result<Self> {
        let compose: Self = serde_saphyr::from_str(&interpolated(text)?).context("docker-compose.yml")?;
        for (name, service) in &compose.services {
            for other in service.depends_on.keys() {
                compose.services.get(other).with_context(|| format!("{name} depends on {other}, which is not there"))?;
            }
            for (volume, _) in service.mounts()? {
                compose.volumes.get(&volume).with_context(|| format!("{name} mounts {volume}, which is not declared"))?;
            }
        }
        Ok(compose)
    }

    /// Services so that each comes after those it depends on; names decide where nothing else does.
    ///
    /// # Errors
    /// Where they depend on each other in a circle.
    pub fn in_order(&self) -> Result<Vec<&str>> {
        let mut order: Vec<&str> = Vec::new();
        while order.len() < self.services.len() {
            let next = self.services.iter().find(|(name, service)| {
                !order.contains(&name.as_str()) && service.depends_on.keys().all(|other| order.contains(&other.as_str()))
            });
            match next {
                Some((name, _)) => order.push(name),
                None => bail!("services depend on each other in a circle; in order so far: {order:?}"),
            }
        }
        Ok(order)
    }
}

impl Service {
    /// Ends by itself; others wait for that.
    pub fn is_one_shot(&self) -> bool {
        self.restart == "no"
    }
    /// Whether it has addresses of its own.
    pub fn has_network(&self) -> bool {
        self.network_mode.as_deref() != Some("none")
    }
    /// Volume and the folder where the service sees it.
    ///
    /// # Errors
    /// Where a mount is written otherwise.
    pub fn mounts(&self) -> Result<Vec<(String, String)>> {
        let mount = |text: &String| {
            let mut parts = text.split(':');
            match (parts.next(), parts.next(), parts.next()) {
                (Some(volume), Some(target), None | Some("ro")) if target.starts_with('/') => Ok((volume.to_owned(), target.to_owned())),
                _ => bail!("the mount {text:?} is not VOLUME:/FOLDER or VOLUME:/FOLDER:ro"),
            }
        };
        self.volumes.iter().map(mount).collect()
    }
}

/// `${NAME:-default}` and `$$`, as the container engine reads them.
fn interpolated(text: &str) -> Result<String> {
    let (mut out, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((inner, after)) = after.strip_prefix('{').and_then(|after| after.split_once('}')) {
            let (_, default) = inner.split_once(":-").with_context(|| format!("${{{inner}}} has no default"))?;
            out.push_str(default);
            rest = after;
        } else {
            bail!("a lone dollar sign before {:?}", after.chars().take(20).collect::<String>());
        }
    }
    out.push_str(rest);
    Ok(out)
}

#[test]
fn variables_take_their_defaults() {
    assert_eq!(interpolated("a ${X:-b}: $$HOME").unwrap(), "a b: $HOME");
    assert!(interpolated("${X}").is_err());
    assert!(interpolated("$X").is_err());
}

#[test]
fn what_is_not_known_is_refused() {
    let with = |service: &str| Compose::read(&format!("name: a\nx-service: {{}}\nvolumes: {{v: {{}}}}\nservices: {{s: {{{service}}}}}"));
    assert!(with("command: [a], volumes: ['v:/x:ro']").is_ok());
    for bad in ["comand: [a]", "command: 7", "volumes: ['w:/x']", "volumes: ['/x']", "depends_on: {t: {condition: service_healthy}}"] {
        assert!(with(bad).is_err(), "{bad}");
    }
    assert!(with("depends_on: {s: {condition: service_healthy}}").unwrap().in_order().is_err());
}
