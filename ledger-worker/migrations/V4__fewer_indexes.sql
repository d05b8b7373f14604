-- Indexes that no question uses; each cost as much as a row.

drop index fact_job;
drop index hold_open;
drop index vesting_open;
