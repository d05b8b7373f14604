-- Jobs that have not ended, as the sweeper looks at them: a small table of its own, so that the rows of jobs stay cheap to write.
create table open_job (
    member        text collate "C" not null,
    id            text collate "C" not null,
    swept_at      bigint not null default 0,
    -- Why it should have moved on by now.
    overdue       text,
    -- Since when JOBS does not have its message.
    missing_since bigint,
    primary key (member, id)
);
create index open_job_next on open_job (swept_at);
create index open_job_overdue on open_job (member) where overdue is not null;

-- Up to which time of creation jobs were looked at.
create table sweep (
    one   boolean primary key default true check (one),
    until bigint not null default 0
);
insert into sweep default values;

-- Jobs come in about the order of their creation: this finds the last hours of them and costs next to nothing.
create index job_created on job using brin (created_at);
