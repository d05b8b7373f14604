-- The books as rows. Derived from LEDGER alone: every row can be made again by replay.
-- Names are unqualified: the same text makes the live schema and the temporary one that `verify` compares with it.
-- Ids of facts, jobs, attempts and receipts are binary CIDs (36 bytes); amounts are milli-mana.

-- Where the projection stands. Moved in the transaction that writes the rows, by compare-and-set.
create table cursor (
    stream text primary key,
    seq    bigint not null check (seq >= 0),
    chain  bytea not null check (length(chain) = 32)
);
insert into cursor (stream, seq, chain) values ('LEDGER', 0, decode(repeat('00', 32), 'hex'));

-- One stored message each, as it was signed; facts = 0 where it is no valid batch of a ledger key.
create table event (
    seq      bigint primary key,
    envelope bytea not null,
    chain    bytea not null check (length(chain) = 32),
    facts    integer not null check (facts between 0 and 256)
);

create table fact (
    seq   bigint not null,
    i     smallint not null,
    id    bytea not null unique,
    kind  text collate "C" not null,
    job   bytea,
    at_ms bigint not null,
    -- The JSON text that was signed, verbatim.
    body  text not null,
    primary key (seq, i)
);
create index fact_job on fact (job) where job is not null;

-- The amount leaves `debit` and arrives at `credit`.
create table leg (
    seq    bigint not null,
    i      smallint not null,
    n      smallint not null,
    debit  text collate "C" not null,
    credit text collate "C" not null,
    amount bigint not null check (amount > 0),
    primary key (seq, i, n),
    check (debit <> credit)
);
create index leg_debit on leg (debit, seq);
create index leg_credit on leg (credit, seq);

-- mint, commons, review, burn, and mem_…/available, /held, /vesting.
create table account (
    id       text collate "C" primary key,
    balance  bigint not null,
    last_seq bigint not null,
    check (id = 'mint' or balance >= 0)
) with (fillfactor = 70);
insert into account (id, balance, last_seq) values ('mint', 0, 0), ('commons', 0, 0), ('review', 0, 0), ('burn', 0, 0);

create table hold (
    job        bytea primary key,
    member     text collate "C" not null,
    amount     bigint not null check (amount > 0),
    expires    bigint not null,
    state      text collate "C" not null check (state in ('open', 'settled', 'voided')),
    opened_seq bigint not null,
    closed_seq bigint,
    device     text collate "C",
    attempt    bytea,
    receipt    bytea,
    paid       bigint check (paid between 0 and amount),
    fee        bigint check (fee between 0 and amount),
    reason     text collate "C",
    check ((state = 'open') = (closed_seq is null)),
    check ((state = 'settled') = (receipt is not null)),
    check ((state = 'voided') = (reason is not null))
) with (fillfactor = 70);
create index hold_open on hold (member) where state = 'open';

create table member (
    id  text collate "C" primary key,
    did text not null,
    seq bigint not null
);

create table device (
    id          text collate "C" primary key,
    did         text not null,
    member      text collate "C" not null references member (id),
    tier        smallint not null default 0,
    bound_seq   bigint not null,
    revoked_seq bigint
);

-- Messages are kept whole, for ever; a quick compression where this server has it.
do $$
begin
    execute 'alter table event alter column envelope set compression lz4';
exception when others then
    null;
end
$$;
