-- Indexes that no question uses. Without them a hold is closed in its place, and a fact costs one index less.

drop index fact_job;
drop index hold_open;
drop index vesting_open;
