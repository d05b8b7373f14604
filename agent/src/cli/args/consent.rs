//! The commands of `mesh consent`.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};

use crate::consent::What;

#[derive(Debug, Subcommand)]
pub enum ConsentCommand {
    /// What this device takes.
    #[command(before_help = "  mesh consent show\n  mesh consent show -o json")]
    Show,
    /// Take these too.
    #[command(before_help = "  mesh consent allow kind embed\n  mesh consent allow member me mem_7f3kq2ab…")]
    Allow(Named),
    /// Take these no more, whatever else is allowed.
    #[command(before_help = "  mesh consent deny kind embed\n  mesh consent deny data-class confidential restricted")]
    Deny(Named),
    /// Take these and no others.
    #[command(before_help = "  mesh consent only member me\n  mesh consent only data-class public internal")]
    Only(Named),
    /// Take all of a sort again; of every sort, where none is named.
    #[command(before_help = "  mesh consent any kind\n  mesh consent any")]
    Any {
        /// kind, member, group, data-class or model.
        #[arg(value_name = "SORT", value_parser = sorts())]
        what: Option<What>,
    },
    /// Take nothing until that is changed; a file that cannot be read is kept beside the new one.
    #[command(before_help = "  mesh consent nothing\n  mesh consent nothing -o json")]
    Nothing,
    /// Name several members; without any, the group is gone.
    #[command(before_help = "  mesh consent group lab mem_7f3kq2ab… mem_2k4mx9pq…\n  mesh consent group lab")]
    Group {
        /// Your own name for them.
        name: String,
        /// mem_…, or me.
        members: Vec<String>,
    },
    /// What becomes of running work that is allowed no more.
    #[command(before_help = "  mesh consent running ends\n  mesh consent running stops")]
    Running {
        /// ends: it ends here; stops: it goes to another device at once.
        #[arg(value_parser = PossibleValuesParser::new(["ends", "stops"]))]
        what: String,
    },
}

#[derive(Debug, Args)]
pub struct Named {
    /// kind, member, group, data-class or model.
    #[arg(value_name = "SORT", value_parser = sorts())]
    pub what: What,
    /// Which: echo, mem_…, me, a group of your own, public, the SHA-256 of a model's weights.
    #[arg(required = true)]
    pub names: Vec<String>,
}

fn sorts() -> impl TypedValueParser<Value = What> {
    PossibleValuesParser::new(What::ALL.map(word)).map(|text| What::ALL.into_iter().find(|what| word(*what) == text).unwrap_or(What::Kind))
}

/// What people type.
pub const fn word(what: What) -> &'static str {
    match what {
        What::Kind => "kind",
        What::Member => "member",
        What::Group => "group",
        What::DataClass => "data-class",
        What::Model => "model",
    }
}
