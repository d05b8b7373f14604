-- Dead letters: a projection of DLQ and of the failed jobs of HISTORY. They can be dropped and read again while the streams have them.

-- How far each stream is read that has no consumer; another stream of the same name was made at another time.
create table tail (
    stream  text primary key,
    created text not null default '',
    seq     bigint not null default 0
);
insert into tail (stream) values ('DLQ'), ('CANCELS');

create table letter (
    id     text collate "C" primary key,
    -- Absent: nobody's, the operator's alone.
    member text collate "C",
    job    text collate "C",
    at     bigint not null,
    -- JSON.
    body   text not null
);
create index letter_newest on letter (at desc, id desc);
create index letter_of_member on letter (member, at desc, id desc);

-- What somebody did with a letter; it may be known before the letter is.
create table letter_mark (
    id   text collate "C" not null,
    what text not null check (what in ('retried', 'dropped')),
    -- JSON.
    mark text not null,
    at   bigint not null,
    primary key (id, what)
);

-- Jobs that somebody wants to end.
create table cancel_wish (
    job text collate "C" primary key,
    at  bigint not null
);
