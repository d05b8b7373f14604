//! Rules that are broken on purpose, to show that the simulator sees it.

use std::fmt;
use std::str::FromStr;

macro_rules! mutations {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// One broken rule.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Mutation {
            $($(#[$doc])* $name,)*
        }
        impl Mutation {
            pub const ALL: &[Self] = &[$(Self::$name,)*];
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}
mutations! {
    /// The gateway puts a job into JOBS although the ledger has refused its hold.
    AdmitWithoutHold = "admit-without-hold",
    /// The gateway acknowledges a submission before anything else.
    AckSubmissionFirst = "ack-submission-first",
    /// The gateway makes a new key each time it takes a submission, so that a repeat is another hold.
    KeyPerDelivery = "key-per-delivery",
    /// The scheduler acknowledges the job as soon as the receipt is there.
    AckBeforeSettle = "ack-before-settle",
    /// The scheduler acknowledges before HISTORY is written.
    AckBeforeHistory = "ack-before-history",
    /// A holder that was frozen goes on with a lease that is over.
    NoSelfFencing = "no-self-fencing",
    /// A job that comes again is auctioned at once.
    NoLook = "no-look",
    /// Attempts are tried again for ever.
    NoEndOfAttempts = "no-end-of-attempts",
    /// A holder that loses its lease returns the hold.
    VoidWithoutLease = "void-without-lease",
    /// Cancels are not heard.
    IgnoreCancel = "ignore-cancel",
    /// A checkpoint that is behind the last one counts.
    OldCheckpoint = "old-checkpoint",
    /// A receipt of a failure is told as a result.
    FailureIsResult = "failure-is-result",
    /// The end of an attempt is not written to BACK.
    UncountedEnds = "uncounted-ends",
    /// An attempt that its holder left is not listed when its device is gone, too.
    ForgetLeft = "forget-left",
    /// The number of an attempt follows the deliveries of its job.
    NumberByDelivery = "number-by-delivery",
    /// Nobody looks for parts in EVENTS.
    IgnoreEvents = "ignore-events",
    /// The writer of the books appends wherever the stream ends.
    NoExpectedSequence = "no-expected-sequence",
    /// The writer pays again for a receipt that is paid.
    SettleTwice = "settle-twice",
    /// A refused repeat of an append counts as stored.
    RefusedIsStored = "refused-is-stored",
    /// What needs no append is answered without a look at the end of the stream.
    StaleAnswers = "stale-answers",
    /// A message of the OUTBOX is deleted when it is sent.
    OutboxDeletedFirst = "outbox-deleted-first",
    /// A full queue drops the job that runs.
    DropRunning = "drop-running",
    /// The device denies what it has when it is asked to go on with another scheduler.
    DenyOnAdopt = "deny-on-adopt",
    /// A receipt is forgotten when it was sent, although nobody has closed it.
    ForgetReceipt = "forget-receipt",
}

impl fmt::Display for Mutation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
impl FromStr for Mutation {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let known = || Self::ALL.iter().map(|one| one.name()).collect::<Vec<_>>().join(", ");
        Self::ALL.iter().copied().find(|one| one.name() == text).ok_or_else(|| format!("{text} is none of {}", known()))
    }
}
