//! What the device's owner wants of it: to pause, to go on, to end its work and stop. It acts at once; the hub need not be there.

use std::time::{Duration, Instant};

use async_nats::Message;
use bus_schemas::offer::Decline;
use bus_schemas::{Code, Form, Problem, limits, strict};

use super::state::Agent;
use crate::local::{self, Granted, Wish};

const PAUSED: &str = "its device was paused by its owner";
const STOPPED: &str = "its device was stopped by its owner";

impl Agent {
    /// Answers `mesh.owner` on the local server.
    pub async fn on_wish(&mut self, message: Message) {
        let granted = strict::decode(Form::Json, &message.payload, limits::BODY_BYTES_MAX).and_then(|wish| self.grant(wish));
        let body = match &granted {
            Ok(granted) => serde_json::to_vec(granted),
            Err(problem) => serde_json::to_vec(&problem.body()),
        };
        if let (Some(local), Some(reply)) = (&self.local, message.reply) {
            let _ = local.bus.client.publish(reply, body.unwrap_or_default().into()).await;
        }
    }

    fn grant(&mut self, wish: Wish) -> Result<Granted, Problem> {
        let handed_back = match wish {
            Wish::Pause { for_ms, reason } => self.pause(local::pause_ms(for_ms)?, local::reason(reason.as_deref())?)?,
            Wish::Resume {} => {
                self.resume_work()?;
                0
            }
            Wish::Stop {} => {
                self.leaving = true;
                self.close_doors(Decline::Draining);
                self.hand_back(STOPPED, false)
            }
        };
        Ok(Granted { handed_back, running: self.work.running(), not_working: self.not_working() })
    }

    fn pause(&mut self, for_ms: Option<u64>, reason: Option<&str>) -> Result<usize, Problem> {
        if self.closed == Some(Decline::Draining) {
            return Err(shutting_down());
        }
        self.device.settings.pause(bus::hub_time::here_ms(), for_ms, reason);
        self.close_doors(Decline::Paused);
        let handed_back = self.hand_back(PAUSED, true);
        tracing::info!(why = self.device.settings.paused, handed_back, "paused");
        self.keep_settings("it is paused, but not after a restart")?;
        Ok(handed_back)
    }

    /// Also where it was to stop after its work; a signal to stop is final.
    fn resume_work(&mut self) -> Result<(), Problem> {
        if self.closed == Some(Decline::Draining) && !self.leaving {
            return Err(shutting_down());
        }
        self.leaving = false;
        self.closed = None;
        self.next_beat = Instant::now();
        if self.device.settings.resume() {
            tracing::info!("takes work again");
            self.keep_settings("it takes work, but not after a restart")?;
        }
        Ok(())
    }

    /// Takes no more work, and says so to all schedulers at once.
    fn close_doors(&mut self, why: Decline) {
        self.closed = Some(why);
        self.next_beat = Instant::now();
    }

    /// Into the file as it is now: its owner may have changed other lines of it since the start.
    fn keep_settings(&self, otherwise: &str) -> Result<(), Problem> {
        let kept = self.home.device().map_err(|problem| problem.detail).and_then(|mut device| {
            let own = &self.device.settings;
            (device.settings.paused, device.settings.paused_until_ms) = (own.paused.clone(), own.paused_until_ms);
            self.home.save(&device).map_err(|error| format!("{error:#}"))
        });
        kept.map_err(|why| Problem::new(Code::BadFile, format!("{otherwise}: {why}")))
    }

    /// A device that starts paused keeps nothing that it had.
    pub fn start_paused(&mut self) {
        self.resume_if_due();
        if self.closed == Some(Decline::Paused) {
            self.hand_back(PAUSED, true);
        }
    }

    /// Told to stop: takes nothing new and hands everything back.
    pub fn drain(&mut self) {
        tracing::info!("stopping");
        self.leaving = false;
        self.closed = Some(Decline::Draining);
        self.hand_back(STOPPED, true);
    }

    /// When a pause ends by itself, by this machine's clock, which goes on while it sleeps.
    pub fn resume_due(&self) -> Option<Instant> {
        let until = Some(self.device.settings.paused_until_ms).filter(|until| *until != 0 && self.closed == Some(Decline::Paused))?;
        // No longer than a heartbeat: the clock may be set, and the machine may sleep.
        let left = Duration::from_millis(until.saturating_sub(bus::hub_time::here_ms())).min(self.timings.heartbeat);
        Instant::now().checked_add(left)
    }

    /// Ends a pause whose time is over.
    pub fn resume_if_due(&mut self) {
        if self.closed == Some(Decline::Paused)
            && self.device.settings.is_over(bus::hub_time::here_ms())
            && let Err(problem) = self.resume_work()
        {
            tracing::warn!(%problem, "the pause is over");
        }
    }
}

fn shutting_down() -> Problem {
    Problem::new(Code::NotRunning, Decline::Draining.to_string())
}
