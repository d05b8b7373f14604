-- What people see of their jobs: a projection of HISTORY, one row a job. It can be dropped and read again while HISTORY has it.

-- Messages of HISTORY that are in the rows, so that none counts twice however often it is delivered.
create table applied (
    seq bigint primary key,
    at  timestamptz not null default now()
);

create table job (
    member        text collate "C" not null,
    id            text collate "C" not null,
    -- 0 rejected, 1 admitted, 2 ended: it never falls, so records may come in any order.
    rank          smallint not null check (rank between 0 and 2),
    state         text not null,
    kind          text,
    key           text,
    asker         text,
    -- Hub time, Unix milliseconds, here and in every column of times.
    created_at    bigint not null,
    finished_at   bigint,
    device        text,
    attempts      integer not null default 0,
    paid_mmana    bigint,
    hold_mmana    bigint,
    hold_expires  bigint,
    -- JSON: why it failed or was rejected.
    problem       text,
    form          text,
    body          bytea,
    -- MessagePack: the submitter's signature, the end of a completed job.
    signed        bytea,
    done          bytea,
    next_look_at  bigint,
    gives_up_at   bigint,
    -- JSON lines, in the order in which they came: a line is appended without reading the rest.
    transitions   text not null default '',
    decisions     text not null default '',
    failed        text not null default '',
    last_seq      bigint not null,
    primary key (member, id)
);
create index job_newest on job (member, created_at desc, id desc);
