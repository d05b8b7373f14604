//! `echo`: gives the text back. For tests, and to see how fast everything else is.

use bus_schemas::resources::Resources;
use serde::Serialize;

use super::{Control, Ended, Executor, Made, Step};

pub const KIND: &str = "echo";
pub const STAGES: [&str; 1] = ["echoing"];

pub struct Echo;

/// The result: `{"text":…}`.
pub fn result(text: &str) -> Vec<u8> {
    #[derive(Serialize)]
    struct Result<'a> {
        text: &'a str,
    }
    // A struct of one text always encodes.
    serde_json::to_vec(&Result { text }).unwrap_or_default()
}

impl Executor for Echo {
    fn kind(&self) -> &'static str {
        KIND
    }
    fn needs(&self) -> Resources {
        Resources::default()
    }
    fn available(&self) -> Result<(), String> {
        Ok(())
    }
    fn prepare(&mut self) -> Result<(), Ended> {
        Ok(())
    }
    fn run(&mut self, texts: &[String], _kept: &[Vec<u8>], _tell: &mut dyn FnMut(Step) -> Control) -> Result<Made, Ended> {
        Ok(Made { bytes: result(texts.first().map_or("", String::as_str)), units: 1 })
    }
    fn release(&mut self) {}
    fn is_loaded(&self) -> bool {
        false
    }
}
