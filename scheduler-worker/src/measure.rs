//! What Prometheus is told.

use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

/// Names every metric once, so that all are there from the start.
pub fn describe() {
    describe_counter!("mesh_auctions_total", "Auctions opened");
    describe_counter!("mesh_bids_received_total", "Answers to offers, bids and noes");
    describe_counter!("mesh_jobs_assigned_total", "Assignments that a device accepted");
    describe_counter!("mesh_jobs_completed_total", "Jobs whose result was told");
    describe_counter!("mesh_jobs_failed_total", "Jobs that ended without a result");
    describe_counter!("mesh_job_checkpoints_total", "Parts of results that a next attempt can go on behind");
    describe_counter!(
        "mesh_other_jobs_asked_total",
        "Jobs in another scheduler's hand that the books were asked about, at most 64 a second"
    );
    describe_counter!("mesh_other_events_passed_over_total", "Events of other schedulers' jobs that were not looked at");
    describe_histogram!("mesh_job_assignment_seconds", "From submission to the accepted assignment");
    describe_histogram!("mesh_job_process_seconds", "From the assignment to the receipt");
    describe_gauge!("mesh_jobs_pending", "Jobs in hand that wait for an auction or a device");
    describe_gauge!("mesh_jobs_bidding", "Jobs in an open auction or being assigned");
    describe_gauge!("mesh_jobs_executing", "Jobs that a device has accepted");
    describe_gauge!("mesh_mass_silence", "1 while most devices fell silent at once and their jobs are kept where they are");
    for name in [
        "mesh_auctions_total",
        "mesh_bids_received_total",
        "mesh_jobs_assigned_total",
        "mesh_jobs_completed_total",
        "mesh_jobs_failed_total",
        "mesh_job_checkpoints_total",
        "mesh_other_jobs_asked_total",
        "mesh_other_events_passed_over_total",
    ] {
        counter!(name).increment(0);
    }
}

pub fn auction_opened() {
    counter!("mesh_auctions_total").increment(1);
}
pub fn bids(count: usize) {
    counter!("mesh_bids_received_total").increment(count as u64);
}
pub fn assigned(since_submission: Duration) {
    counter!("mesh_jobs_assigned_total").increment(1);
    histogram!("mesh_job_assignment_seconds").record(since_submission.as_secs_f64());
}
pub fn receipt(since_assignment: Duration) {
    histogram!("mesh_job_process_seconds").record(since_assignment.as_secs_f64());
}
pub fn completed() {
    counter!("mesh_jobs_completed_total").increment(1);
}
pub fn failed() {
    counter!("mesh_jobs_failed_total").increment(1);
}
pub fn checkpoint() {
    counter!("mesh_job_checkpoints_total").increment(1);
}
/// Jobs that devices tell of and that are not in hand here: the books are asked whether they exist.
pub fn asked_of_others(jobs: usize) {
    counter!("mesh_other_jobs_asked_total").increment(jobs as u64);
}
/// Events of such jobs that were not looked at, because enough jobs are asked about already.
pub fn passed_over() {
    counter!("mesh_other_events_passed_over_total").increment(1);
}
/// A message that could not be used.
pub fn refused(what: &'static str) {
    counter!("mesh_scheduler_messages_refused_total", "what" => what).increment(1);
}
pub fn in_hand(pending: u32, bidding: u32, executing: u32) {
    gauge!("mesh_jobs_pending").set(pending);
    gauge!("mesh_jobs_bidding").set(bidding);
    gauge!("mesh_jobs_executing").set(executing);
}
pub fn mass_silence(is_waited_out: bool) {
    gauge!("mesh_mass_silence").set(f64::from(u8::from(is_waited_out)));
}
